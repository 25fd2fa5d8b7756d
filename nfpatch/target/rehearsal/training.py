"""Observes the trainings of a call by a Lightning callback on every rank."""

from __future__ import annotations

import functools
from typing import Any

from ..comparing import weights_of
from ..events import TrainingObserved
from ..observing import Observation, observer_class
from . import reference_run
from .own_code import own_layers, place_in_own_code
from .recorder import EventRecorder, recorder_from_environment


def wrap_fit(recorder: EventRecorder, trainer_class: Any) -> None:
    """Makes trainers record each training, or restore its result in a single-process reference."""
    fit = trainer_class.fit

    @functools.wraps(fit)
    def fitted(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        if not recorder.depth or recorder.trains_reference:
            return fit(self, model, *arguments, **options)
        if recorder.is_reference_run:
            reference_run.restore_training(recorder, self, model)
            return None
        recorder.begin_training()
        try:
            answer = fit(self, model, *arguments, **options)
        finally:
            recorder.enable_stack_dumps()
        if recorder.is_main and recorder.rank == 0:
            reference_run.snapshot_training(recorder, self, model)
            reference_run.validate(recorder, self, model, options.get("datamodule"))
        return answer

    trainer_class.fit = fitted


def wrap_stopping(trainer_class: Any) -> None:
    """Makes trainers record which line of user code stops the training on this rank."""
    if hasattr(trainer_class, "should_stop"):  # else it is an attribute of each trainer
        return

    def set_stop(self: Any, stops: Any) -> None:
        place = place_in_own_code() if stops and not vars(self).get("should_stop") else ""
        for callback in self.callbacks if place else ():
            if isinstance(getattr(callback, "observation", None), Observation):
                training = callback.observation.training
                training.stopped_by, training.stopped_after = place, self.global_step
                callback.report(self, self.lightning_module)
        vars(self)["should_stop"] = stops

    trainer_class.should_stop = property(lambda self: vars(self)["should_stop"], set_stop)


def watcher(recorder: EventRecorder | None = None) -> Any:
    """A callback that records each training."""
    own = recorder_from_environment() if recorder is None else recorder  # in a spawned process

    class Watcher(observer_class()):
        def __reduce__(self) -> Any:
            return watcher, ()

        def setup(self, trainer: Any, module: Any, stage: Any = None) -> None:
            if own.trains_for_a_rank:
                # Spawned processes share the memory of the model until it is moved to a GPU. For CPUs, Lightning does
                # the same; the pretended GPUs are CPUs.
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data = tensor.data.clone()

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            own.enable_stack_dumps()
            self.observation.begin()
            own.validated = None

        def on_predict_start(self, trainer: Any, module: Any) -> None:
            own.enable_stack_dumps()

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            super().on_validation_end(trainer, module)
            if own.is_main and own.rank == 0 and not trainer.sanity_checking:
                own.validated = weights_of(module)

        def report(self, trainer: Any, module: Any) -> None:
            training = self.observation.training
            training.own_layers = tuple(own_layers(module, training.unused))
            own.write(TrainingObserved(*own.place(), training), trainer.global_rank)

    return Watcher(Observation())
