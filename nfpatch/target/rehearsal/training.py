"""The trainings of a call, seen by a callback of Lightning's on every rank."""

from __future__ import annotations

import functools
from typing import Any

from ..comparing import weights_of
from ..events import OwnLayersUnused, TrainingObserved, TrainingStarted, TrainingStopped
from ..observing import Observation, digest_of, observer_class
from . import reference_run
from .own_code import own_layers, place_in_own_code
from .recorder import EventRecorder, recorder_from_environment


def wrap_fit(recorder: EventRecorder, trainer_class: Any) -> None:
    """Makes a trainer of neuralforecast record each training, or give a model the weights of one that has been."""
    fit = trainer_class.fit

    @functools.wraps(fit)
    def fitted(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        if not recorder.calls or recorder.trains_reference:
            return fit(self, model, *arguments, **options)
        if recorder.is_reference_run:
            reference_run.restore_training(recorder, self, model)
            return None
        recorder.begin_training()
        try:
            answer = fit(self, model, *arguments, **options)
        finally:
            recorder.watch_place()
        if recorder.is_main and recorder.rank == 0:
            reference_run.snapshot_training(recorder, self, model)
            reference_run.validate(recorder, self, model, options.get("datamodule"))
        return answer

    trainer_class.fit = fitted


def wrap_stopping(recorder: EventRecorder, trainer_class: Any) -> None:
    """Makes a trainer record which line of the user's own code stops the training on this rank."""
    if hasattr(trainer_class, "should_stop"):  # it is an attribute of each trainer
        return

    def set_stop(self: Any, stops: Any) -> None:
        is_watched = recorder.calls or recorder.trains_for_a_rank
        if stops and not vars(self).get("should_stop") and is_watched and not recorder.is_reference_run:
            place = place_in_own_code()
            if place:
                event = TrainingStopped(*recorder.place(), self.global_step, place)
                recorder.write(event, self.global_rank)
        vars(self)["should_stop"] = stops

    trainer_class.should_stop = property(lambda self: vars(self)["should_stop"], set_stop)


def watcher(recorder: EventRecorder | None = None) -> Any:
    """A callback that records how each training goes."""
    own = recorder_from_environment() if recorder is None else recorder  # in a process that has just been made

    class Watcher(observer_class()):
        layers: tuple[Any, ...] = ()  # those of the user's own that were recorded as unused

        def __reduce__(self) -> Any:
            return watcher, ()

        def setup(self, trainer: Any, module: Any, stage: Any = None) -> None:
            if own.trains_for_a_rank:
                # Processes that are spawned share the model's memory until it is on their GPUs, and these are the CPU.
                # Lightning itself does this for a CPU
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data = tensor.data.clone()

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            own.watch_place()
            self.observation.begin()
            own.validated = None

        def on_predict_start(self, trainer: Any, module: Any) -> None:
            own.watch_place()

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            super().on_validation_end(trainer, module)
            if own.is_main and own.rank == 0 and not trainer.sanity_checking:
                own.validated = weights_of(module)

        def on_train_start(self, trainer: Any, module: Any) -> None:
            find_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters")
            bases = [each.__name__ for each in type(module).__mro__ if each.__module__.startswith("neuralforecast.")]
            name = type(module).__name__
            event = TrainingStarted(*own.place(), name, trainer.world_size, find_unused, tuple(bases))
            own.write(event, trainer.global_rank)

        def validation_loss(self, trainer: Any) -> float | None:
            return reference_run.validation_loss_of(trainer)

        def report(self, trainer: Any, module: Any, has_ended: bool = False) -> None:
            number, index = own.place()
            seen = self.observation.evidence
            layers = tuple(own_layers(module, seen.unused))
            if layers and layers != self.layers:
                self.layers = layers
                own.write(OwnLayersUnused(number, index, layers), trainer.global_rank)
            event = TrainingObserved(
                number,
                index,
                type(module).__name__,
                trainer.global_step,
                seen.losses,
                seen.validated,
                seen.unused,
                digest_of(module) if has_ended else None,
            )
            own.write(event, trainer.global_rank)

    return Watcher(Observation())
