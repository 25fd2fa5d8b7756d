"""What a training really does, observed by a callback of Lightning."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .events import Evidence, encode
from .process import print_stack_when_asked

# Printed by the torch reducer when TORCH_DISTRIBUTED_DEBUG is INFO or DETAIL.
UNUSED_PARAMETERS_NAMES = re.compile(r"Parameters which did not receive grad for rank \d+: ([^\n]+)")
# What Lightning 1 and 2 put in front of a parameter's name when they wrap the model for DDP.
WRAPPER_PREFIX = re.compile(r"^(module\.|_forward_module\.)+")
# Names the folder in which processes that end with a fit leave what they observed; `spawned.py` reads it.
LEFT_IN = "NFPATCH_OBSERVED"


class Observation:
    """What is observed of the case under way. A process has one, which all callbacks share.

    neuralforecast copies models together with their callbacks, and a copy observes for the same case.
    """

    def __init__(self) -> None:
        self.evidence = Evidence()

    def begin(self) -> None:
        """Forgets what was observed before."""
        self.evidence = Evidence()


def observer_class() -> Any:
    """The callback class that both `recorder` and the rehearsal's observe trainings with.

    A class of this function cannot be pickled, and neuralforecast copies callbacks along with models: each subclass
    says what it is pickled as, and a copy is the callback itself.
    """
    import pytorch_lightning

    class Observer(pytorch_lightning.Callback):
        def __init__(self, observation: Observation) -> None:
            self.observation = observation

        def __deepcopy__(self, memory: Any) -> Any:
            return self

        def __copy__(self) -> Any:
            return self

        def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
            evidence = self.observation.evidence
            evidence.losses += (loss.item(),)
            evidence.finite_loss = all(map(math.isfinite, evidence.losses))

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            evidence = self.observation.evidence
            evidence.unused_last = tuple(
                name for name, p in module.named_parameters() if p.requires_grad and p.grad is None
            )
            evidence.unused = tuple(dict.fromkeys((*evidence.unused, *evidence.unused_last)))
            self.report(trainer, module)  # the next step may be refused

        def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
            self.observation.evidence.steps = trainer.global_step

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            loss = self.validation_loss(trainer)
            if loss is not None and not trainer.sanity_checking:
                self.observation.evidence.validated += (loss,)

        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.report(trainer, module, has_ended=True)

        def validation_loss(self, trainer: Any) -> float | None:
            """The loss of the validation that has just ended; None if there is none."""
            raise NotImplementedError

        def report(self, trainer: Any, module: Any, has_ended: bool = False) -> None:
            """Hands on what was observed so far."""
            raise NotImplementedError

    return Observer


def recorder(observation: Observation) -> Any:
    """The callback of a case, which records in `observation` what the fit really does."""
    import pytorch_lightning
    import torch

    class Recorder(observer_class()):
        def __reduce__(self) -> Any:
            # in another process there is another observation
            return restored_recorder, (os.environ.get(LEFT_IN),)

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            if LEFT_IN in os.environ:
                tell_place(os.environ[LEFT_IN], trainer.global_rank)
                observation.begin()

        def on_train_start(self, trainer: Any, module: Any) -> None:
            # A process group of an earlier case may be there while this one trains alone.
            parallel = isinstance(trainer.strategy, pytorch_lightning.strategies.ParallelStrategy)
            distributed = parallel and torch.distributed.is_available() and torch.distributed.is_initialized()
            evidence = observation.evidence
            evidence.world_size = torch.distributed.get_world_size() if distributed else 1
            evidence.backend = str(torch.distributed.get_backend()) if distributed else None
            evidence.points = (len(getattr(trainer.datamodule.dataset, "temporal", ())),)
            evidence.parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *index: Any) -> None:
            if is_multivariate(module):
                observation.evidence.batches += (digest_of_tensors([batch["temporal"]]),)
            # torch before 2.0 resets gradients to zero, which would hide a parameter unused from the second step on.
            for parameter in module.parameters():
                parameter.grad = None

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            # Called before Lightning 2 replaces torch's words, names included, by its own.
            # In the process that started those of a fit it is called once they have ended.
            observation.evidence.unused_by_torch = parameters_named_by_torch(str(exception))

        def validation_loss(self, trainer: Any) -> float | None:
            stopping = trainer.early_stopping_callback
            monitor = "ptl/val_loss" if stopping is None else stopping.monitor
            return float(trainer.callback_metrics[monitor]) if monitor in trainer.callback_metrics else None

        def report(self, trainer: Any, module: Any, has_ended: bool = False) -> None:
            if LEFT_IN in os.environ:  # the process ends with the fit
                left = encode(replace(observation.evidence, digest=digest_of(module)))
                path = os.path.join(os.environ[LEFT_IN], f"rank-{trainer.global_rank}.json")
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(left, file)

    return Recorder(observation)


def restored_recorder(left_in: str | None) -> Any:
    """The callback in another process; `left_in` is what LEFT_IN names, where it does."""
    if left_in is not None:
        os.environ[LEFT_IN] = left_in
    return recorder(Observation())


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


def parameters_named_by_torch(message: str) -> tuple[str, ...] | None:
    """The parameters that a torch reducer's complaint names, as the model calls them; None if it names none."""
    found = UNUSED_PARAMETERS_NAMES.search(message)
    return None if found is None else tuple(WRAPPER_PREFIX.sub("", each.strip()) for each in found.group(1).split(","))
