"""The trainings of a call, seen by a callback of Lightning's on every rank."""

from __future__ import annotations

import functools
from typing import Any

from ..observing import digest_of
from . import alone
from .noting import Notes, notes_of_environment


def wrap_fit(notes: Notes, trainer_class: Any) -> None:
    """Makes a trainer of neuralforecast's tell of each training, or give a model the weights of one that has been."""
    fit = trainer_class.fit

    @functools.wraps(fit)
    def fitted(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        if not notes.calls or notes.trains_alone:
            return fit(self, model, *arguments, **options)
        if notes.is_alone:
            alone.train_again(self, model)
            return None
        notes.begin_training()
        try:
            answer = fit(self, model, *arguments, **options)
        finally:
            notes.watch_place()
        if notes.is_main and notes.rank == 0:
            alone.keep(self, model)
            alone.validate(notes, self, model, options.get("datamodule"))
        return answer

    trainer_class.fit = fitted


def watcher(notes: Notes | None = None) -> Any:
    """A callback that notes how each training goes."""
    import pytorch_lightning

    told = notes_of_environment() if notes is None else notes  # in a process that has just been made

    class Watcher(pytorch_lightning.Callback):
        def __init__(self) -> None:
            self.seen: dict[str, Any] = {}

        def __reduce__(self) -> Any:
            return watcher, ()  # its class cannot be pickled

        def __deepcopy__(self, memory: Any) -> Any:
            return self

        def setup(self, trainer: Any, module: Any, stage: Any = None) -> None:
            if told.trains_for_a_rank:
                # Processes that are spawned share the model's memory until it is on their GPUs, and these are the CPU.
                # Lightning itself does this where it is told of a CPU
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data = tensor.data.clone()

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            told.watch_place()
            self.seen = {"losses": [], "validated": [], "unused": []}

        def on_predict_start(self, trainer: Any, module: Any) -> None:
            told.watch_place()

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.note(
                trainer,
                "training",
                model=type(module).__name__,
                world_size=trainer.world_size,
                find_unused=getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters"),
            )

        def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
            self.seen["losses"].append(loss.item())

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            unused = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
            self.seen["unused"] += [name for name in unused if name not in self.seen["unused"]]
            self.tell(trainer, module)  # the next step may be refused

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            loss = alone.validation_loss_of(trainer)
            if "validated" in self.seen and loss is not None and not trainer.sanity_checking:
                self.seen["validated"].append(loss)

        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.tell(trainer, module, weights=digest_of(module))

        def tell(self, trainer: Any, module: Any, **more: Any) -> None:
            self.note(trainer, "trained", model=type(module).__name__, steps=trainer.global_step, **self.seen, **more)

        def note(self, trainer: Any, event: str, **fields: Any) -> None:
            number, index = told.place()
            told.write(event, rank=trainer.global_rank, number=number, index=index, **fields)

    return Watcher()
