"""A training step that fails on one rank ends the training on all ranks.

The other ranks would hang waiting for the gradients of the rank that failed. So that rank publishes its error in the
store of the process group and returns a loss whose gradients are zero. All ranks continue to the end of the following
step, where each can read the error, and raise it there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Optional

from . import compat
from .ranks import RankGroup, group_of_trainer, to_picklable

# Keys of the store, below `failures/N` for the N-th training of a process
N_FAILED = "failed"
ERROR = "error"
STEP = "step"
N_PUBLISHED = "published"
N_FINISHED = "finished"
ALL_FINISHED = "all finished"


def guard_training_step(model: Any, group: Optional[RankGroup] = None) -> None:
    """Replace the model's `training_step`, for one call, by one that publishes an error instead of raising it.

    Does nothing in one process, and under a strategy other than DDP. Uses no collective call; an error is published
    under the store keys `failures/N/error` and `failures/N/step`.
    """
    failures = _group_of_training(model.trainer, group)
    if failures is None:
        return
    if isinstance(model.training_step, _GuardedStep):  # Lightning has skipped the batch of this step
        model.training_step.remove()
    model.training_step = _GuardedStep(model, failures)


def raise_error_of_rank(model: Any, group: Optional[RankGroup] = None) -> None:
    """Raise the error that a rank has published, once every rank can read it: at the end of the next step.

    Does nothing if there is none. Uses no collective call, and the store keys of `guard_training_step`.
    """
    failures = _group_of_training(model.trainer, group)
    if failures is not None:
        # An error that is published before the gradients of a step are reduced can be read by all ranks at the end of
        # the next step, even if the reduction has not completed when a step ends, as on GPUs
        _raise_published(model.trainer, failures, before_step=model.trainer.global_step - 1)


def finish_training(model: Any, group: Optional[RankGroup] = None) -> None:
    """Wait for all ranks after the last step, and raise the error that one has published in it.

    Does nothing at the end of an epoch that is not the last. Uses no collective call, and the store keys
    `failures/N/finished` and `failures/N/all finished`. Raises the store's error if a rank does not arrive in time.
    """
    trainer = model.trainer
    failures = _group_of_training(trainer, group)
    if failures is None or not trainer.fit_loop.done:
        return
    if failures.store.add(N_FINISHED, 1) == failures.world_size:
        failures.store.set(ALL_FINISHED, "")
    failures.store.wait([ALL_FINISHED])
    _raise_published(trainer, failures, before_step=trainer.global_step)


class _GuardedStep:
    """A replacement of a model's training step, for one call, that publishes an error."""

    def __init__(self, model: Any, failures: RankGroup) -> None:
        self.model = model
        self.failures = failures
        self.own = vars(model).get("training_step")
        self.__wrapped__ = model.training_step  # whose signature Lightning reads

    def remove(self) -> None:
        """Restore the model."""
        if self.own is None:
            del self.model.training_step
        else:
            self.model.training_step = self.own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.remove()
        model = self.model
        try:
            return model.training_step(*args, **kwargs)
        except Exception as error:
            model.trainer._error_of_own_step = error
            _publish(error, model.trainer, self.failures)
            with suppress(Exception):  # in a release that logs it differently
                _log_no_loss(model)
            return sum((p * 0).sum() for p in model.parameters() if p.requires_grad)


def _group_of_training(trainer: Any, group: Optional[RankGroup]) -> Optional[RankGroup]:
    """The ranks with the keys of this training; None if a failing step makes no other rank hang."""
    group = group_of_trainer(trainer, group)
    if group is None or not type(trainer.strategy).__name__.startswith("DDP"):
        return None
    # A number, not the group: the user may save a callback that keeps the trainer
    if not hasattr(trainer, "_number_of_training"):
        trainer._number_of_training = group.count_call("failures")
    return group.prefixed(f"failures/{trainer._number_of_training}")


def _publish(error: Exception, trainer: Any, failures: RankGroup) -> None:
    """Publish the error of this rank, unless another rank was first."""
    if failures.store.add(N_FAILED, 1) == 1:
        failures.publish(ERROR, to_picklable(error))
        failures.publish(STEP, trainer.global_step)
        failures.store.add(N_PUBLISHED, 1)


def _raise_published(trainer: Any, failures: RankGroup, before_step: int) -> None:
    """Raise the published error if it is of a step before this one."""
    if failures.store.add(N_PUBLISHED, 0) == 0:
        return
    if failures.receive(STEP) < before_step:
        raise failures.receive(ERROR) from getattr(trainer, "_error_of_own_step", None)


def _log_no_loss(model: Any) -> None:
    """Log NaN as the training loss, since the other ranks may reduce it with theirs."""
    model.log(
        "train_loss",
        float("nan"),
        batch_size=1,
        prog_bar=True,
        on_epoch=True,
        sync_dist=compat.is_train_loss_reduced(model),
    )
