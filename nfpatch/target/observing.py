"""What a fit really does, seen by a callback of Lightning's."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from typing import Any

from .process import print_stack_when_asked

# Printed by the torch reducer when TORCH_DISTRIBUTED_DEBUG is INFO or DETAIL.
UNUSED_PARAMETERS_NAMES = re.compile(r"Parameters which did not receive grad for rank \d+: ([^\n]+)")
# What Lightning 1 and 2 put in front of a parameter's name when they wrap the model for DDP.
WRAPPER_PREFIX = re.compile(r"^(module\.|_forward_module\.)+")
# What the callback saw of the running fit. A module-level dictionary, because `NeuralForecast.fit` deep-copies
# models together with their callbacks.
OBSERVED: dict[str, Any] = {}
# Names the folder in which processes that end with a fit leave what they observed; `spawned.py` reads it.
LEFT_IN = "NFPATCH_OBSERVED"


def no_evidence() -> dict[str, Any]:
    """The evidence before a fit has begun."""
    return {
        "world_size": None,  # as torch.distributed reports it during training; 1 where there is no process group
        "backend": None,  # likewise; None where there is no process group
        "steps": 0,  # optimizer steps taken
        "losses": [],  # of every step
        "losses_of_ranks": [],  # of the last fit, by rank, where one process tells for all; else empty
        "finite_loss": True,  # likewise
        "unused": [],  # trainable parameters without a gradient after the backward pass of any step
        "unused_last": [],  # the same, of the last backward pass only
        "unused_by_torch": None,  # the names in torch's own complaint
        "parameters": None,  # how many numbers the trainable parameters are
        "digest": None,  # SHA-256 over all parameters after the fit
        "buffers": None,  # likewise over what is no parameter, as the running statistics of batch normalization
        "forecast_shape": None,  # [rows, columns] of what NeuralForecast.predict gave
        "due_shape": None,  # what they must be: series x horizon, outputs of the loss
        "finite_forecasts": None,  # whether every forecast is a finite number
        "refused": False,  # whether it was neuralforecast itself that raised an exception, in its own words
        "validated": [],  # the validation losses, or what early stopping monitors instead, one a validation
        "points": None,  # how many points in time, of all its series, a process trains on; on Spark, each has its own
        "in_one_order": None,  # whether the processes of a fit that end with it saw the same of the next
        "batches": [],  # of a multivariate model, which must see the same series on each rank: SHA-256 of every batch
        "answers": [],  # SHA-256 of every frame of forecasts that was asked of all ranks
        "refused_alone": False,  # whether one process ends as badly, in the same words
        "comparison": None,  # with the case that this one is like, as `compared` returns it
    }


def recorder(left_in: str | None = None) -> Any:
    """A callback that notes in `OBSERVED` what the fit really does; `left_in` is what LEFT_IN names, where it does."""
    import pytorch_lightning
    import torch

    if left_in is not None:  # in a process that has another environment
        os.environ[LEFT_IN] = left_in

    class Recorder(pytorch_lightning.Callback):
        def __reduce__(self) -> Any:
            # its class cannot be pickled, and it keeps nothing itself
            return recorder, (os.environ.get(LEFT_IN),)

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            if LEFT_IN in os.environ:
                tell_place(os.environ[LEFT_IN], trainer.global_rank)
            if LEFT_IN in os.environ or not OBSERVED:
                OBSERVED.clear()
                OBSERVED.update(no_evidence())

        def on_train_start(self, trainer: Any, module: Any) -> None:
            # A process group of an earlier case may be there while this one trains alone.
            parallel = isinstance(trainer.strategy, pytorch_lightning.strategies.ParallelStrategy)
            distributed = parallel and torch.distributed.is_available() and torch.distributed.is_initialized()
            OBSERVED["world_size"] = torch.distributed.get_world_size() if distributed else 1
            OBSERVED["backend"] = str(torch.distributed.get_backend()) if distributed else None
            OBSERVED["points"] = len(getattr(trainer.datamodule.dataset, "temporal", ()))
            OBSERVED["parameters"] = sum(p.numel() for p in module.parameters() if p.requires_grad)

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *index: Any) -> None:
            if is_multivariate(module):
                OBSERVED["batches"] = [*OBSERVED["batches"], digest_of_tensors([batch["temporal"]])]
            # torch before 2.0 resets gradients to zero, which would hide a parameter unused from the second step on.
            for parameter in module.parameters():
                parameter.grad = None

        def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
            OBSERVED["losses"] = [*OBSERVED["losses"], loss.item()]
            OBSERVED["finite_loss"] = all(map(math.isfinite, OBSERVED["losses"]))

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            unused = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
            OBSERVED["unused_last"] = unused
            OBSERVED["unused"] = OBSERVED["unused"] + [name for name in unused if name not in OBSERVED["unused"]]
            leave_behind(trainer, module)  # the next step may be refused

        def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
            OBSERVED["steps"] = trainer.global_step

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            stopping = trainer.early_stopping_callback
            monitor = "ptl/val_loss" if stopping is None else stopping.monitor
            if not trainer.sanity_checking and monitor in trainer.callback_metrics:
                OBSERVED["validated"] = [*OBSERVED["validated"], float(trainer.callback_metrics[monitor])]

        def on_train_end(self, trainer: Any, module: Any) -> None:
            leave_behind(trainer, module)

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            # Called before Lightning 2 replaces torch's words, names included, by its own.
            # In the process that started those of a fit it is called once they have ended.
            OBSERVED["unused_by_torch"] = parameters_named_by_torch(str(exception))

    return Recorder()


def is_multivariate(model: Any) -> bool:
    """Whether a model wants all series in every batch. Releases before 3.0 have a base class for such models."""
    bases = [base.__name__ for base in type(model).__mro__]
    return "BaseMultivariate" in bases or bool(getattr(model, "MULTIVARIATE", False))


def digest_of(model: Any) -> str:
    """SHA-256 (hex) over all parameters, in the order of their names."""
    return digest_of_tensors(parameter for _, parameter in sorted(model.named_parameters()))


def digest_of_tensors(tensors: Iterable[Any]) -> str:
    """SHA-256 (hex) over the raw bytes of these tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tell_place(folder: str, rank: int) -> None:
    """Lets nfpatch find this process, which ends with the fit, and ask where it hangs."""
    log = os.path.join(folder, f"rank-{rank}.log")
    print_stack_when_asked(log)
    with open(f"{log}.{os.getpid()}", "w", encoding="utf-8"):
        pass


def leave_behind(trainer: Any, module: Any) -> None:
    """Writes down what this process observed, if it is one that ends with the fit."""
    if LEFT_IN in os.environ:
        with open(os.path.join(os.environ[LEFT_IN], f"rank-{trainer.global_rank}.json"), "w", encoding="utf-8") as file:
            json.dump(dict(OBSERVED, digest=digest_of(module)), file)


def parameters_named_by_torch(message: str) -> list[str] | None:
    """The parameters that a torch reducer's complaint names, as the model calls them; None if it names none."""
    found = UNUSED_PARAMETERS_NAMES.search(message)
    return None if found is None else [WRAPPER_PREFIX.sub("", name.strip()) for name in found.group(1).split(",")]
