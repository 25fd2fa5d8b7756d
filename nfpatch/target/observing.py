"""What a training does, observed by a callback of Lightning."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from .events import Training, encode
from .process import print_stack_when_asked

# Printed by the torch reducer when TORCH_DISTRIBUTED_DEBUG is INFO or DETAIL.
UNUSED_PARAMETERS_NAMES = re.compile(r"Parameters which did not receive grad for rank \d+: ([^\n]+)")
# What Lightning 1 and 2 put in front of a parameter's name when they wrap the model for DDP.
WRAPPER_PREFIX = re.compile(r"^(module\.|_forward_module\.)+")
# The names of the validation loss in neuralforecast, by release
VALIDATION_LOSSES = ("ptl/val_loss", "valid_loss")
# Names the folder in which processes that exit with a fit write what they observed; `plain_fit.py` reads it.
REPORTS_VARIABLE = "NFPATCH_OBSERVED"


class Observation:
    """The running training, as observed so far by all callbacks of the process.

    neuralforecast copies models together with their callbacks, and the copies observe the same training. `of_ranks` are
    the trainings of the ranks of the last fit, if processes of its own trained it.
    """

    def __init__(self) -> None:
        self.training = Training()
        self.of_ranks: list[Training] = []

    def begin(self) -> None:
        """Starts a new training."""
        self.training = Training()


def observer_class() -> Any:
    """The callback class that observes trainings, of a proof and of a user's script.

    Its instances cannot be pickled, and neuralforecast copies callbacks along with models: each subclass defines
    `__reduce__`, and a copy is the callback itself.
    """
    import pytorch_lightning
    import torch

    class Observer(pytorch_lightning.Callback):
        def __init__(self, observation: Observation) -> None:
            self.observation = observation

        def __deepcopy__(self, memory: Any) -> Any:
            return self

        def __copy__(self) -> Any:
            return self

        def on_train_start(self, trainer: Any, module: Any) -> None:
            # The process group of an earlier training may still exist when this one has only one process.
            parallel = isinstance(trainer.strategy, pytorch_lightning.strategies.ParallelStrategy)
            distributed = parallel and torch.distributed.is_available() and torch.distributed.is_initialized()
            bases = [each.__name__ for each in type(module).__mro__ if each.__module__.startswith("neuralforecast.")]
            training = self.observation.training
            training.model, training.bases = type(module).__name__, tuple(bases)
            training.world_size = torch.distributed.get_world_size() if distributed else trainer.world_size
            training.backend = str(torch.distributed.get_backend()) if distributed else None
            training.find_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters")
            training.points = len(getattr(getattr(trainer.datamodule, "dataset", None), "temporal", ()))
            training.parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
            self.report(trainer, module)

        def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
            self.observation.training.losses += (loss.item(),)

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            training = self.observation.training
            training.unused_last = tuple(
                name for name, p in module.named_parameters() if p.requires_grad and p.grad is None
            )
            training.unused = tuple(dict.fromkeys((*training.unused, *training.unused_last)))
            self.report(trainer, module)  # the next step may be refused

        def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
            self.observation.training.steps = trainer.global_step

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            loss = self.validation_loss(trainer)
            if loss is not None and not trainer.sanity_checking:
                self.observation.training.validated += (loss,)

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            # Called before Lightning 2 replaces torch's message, with its names, by its own.
            # In the process that started those of a fit it is called after they have exited.
            self.observation.training.unused_by_torch = parameters_named_by_torch(str(exception))

        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.observation.training.weights = digest_of(module)
            self.report(trainer, module)

        def validation_loss(self, trainer: Any) -> float | None:
            """The loss of the last validation; None if there is none."""
            return validation_loss_of(trainer)

        def report(self, trainer: Any, module: Any) -> None:
            """Reports what was observed so far."""

    return Observer


def make_recorder(observation: Observation) -> Any:
    """The callback of a case, which records what the fit does in `observation`."""

    class Recorder(observer_class()):
        def __reduce__(self) -> Any:
            # another process has another observation
            return unpickle_recorder, (os.environ.get(REPORTS_VARIABLE),)

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            if REPORTS_VARIABLE in os.environ:
                announce_process(os.environ[REPORTS_VARIABLE], trainer.global_rank)
                observation.begin()

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *index: Any) -> None:
            if is_multivariate(module):
                observation.training.batches += (digest_of_tensors([batch["temporal"]]),)
            # torch before 2.0 resets gradients to zero, which would hide a parameter unused from the second step on.
            for parameter in module.parameters():
                parameter.grad = None

        def validation_loss(self, trainer: Any) -> float | None:
            stopping = trainer.early_stopping_callback
            return validation_loss_of(trainer, VALIDATION_LOSSES if stopping is None else (stopping.monitor,))

        def report(self, trainer: Any, module: Any) -> None:
            if REPORTS_VARIABLE in os.environ:  # the process exits with the fit
                path = os.path.join(os.environ[REPORTS_VARIABLE], f"rank-{trainer.global_rank}.json")
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(encode(observation.training), file)

    return Recorder(observation)


def unpickle_recorder(reports: str | None) -> Any:
    """The callback in another process; `reports` is the value of REPORTS_VARIABLE, if it is set."""
    if reports is not None:
        os.environ[REPORTS_VARIABLE] = reports
    return make_recorder(Observation())


def announce_process(folder: str, rank: int) -> None:
    """Lets nfpatch find this process, which exits with the fit, and ask where it hangs."""
    log = os.path.join(folder, f"rank-{rank}.log")
    print_stack_when_asked(log)
    with open(f"{log}.{os.getpid()}", "w", encoding="utf-8"):
        pass


def validation_loss_of(trainer: Any, names: Iterable[str] = VALIDATION_LOSSES) -> float | None:
    """The loss of the last validation, which has one of these names; None if there was none."""
    for name in names:
        if name in trainer.callback_metrics:
            return float(trainer.callback_metrics[name])
    return None


def is_multivariate(model: Any) -> bool:
    """Whether a model takes all series in every batch. Releases before 3.0 have a base class for such models."""
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


def parameters_named_by_torch(message: str) -> tuple[str, ...] | None:
    """The parameters in an error message of torch's reducer, as the model names them; None if it has none."""
    found = UNUSED_PARAMETERS_NAMES.search(message)
    return None if found is None else tuple(WRAPPER_PREFIX.sub("", each.strip()) for each in found.group(1).split(","))
