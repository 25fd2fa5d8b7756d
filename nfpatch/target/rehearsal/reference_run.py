"""Computes the single-process reference of a call on rank 0, right after the call.

The call is made again with trainers for one process. Instead of training, models get the weights of the training on all
ranks, so that differences do not come from the training.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Callable, NamedTuple

from ..comparing import start_from, weights_of
from ..events import ReferenceMade
from ..frames import as_pandas, difference_of
from ..observing import validation_loss_of
from .recorder import EventRecorder


def random_state() -> Any:
    """The states of the random number generators."""
    import numpy
    import torch

    return random.getstate(), numpy.random.get_state(), torch.get_rng_state()


def restore_random_state(state: Any) -> None:
    """Restores the states of the random number generators."""
    import numpy
    import torch

    random.setstate(state[0])
    numpy.random.set_state(state[1])
    torch.set_rng_state(state[2])


def snapshot_training(recorder: EventRecorder, trainer: Any, model: Any) -> None:
    """Keeps the weights, metrics and random state of a finished training until the end of the call."""
    recorder.trained.append((weights_of(model), dict(trainer.callback_metrics), random_state()))


def restore_training(recorder: EventRecorder, trainer: Any, model: Any) -> None:
    """Gives a model the result of the corresponding training; raises LookupError if there was none."""
    if not recorder.trained:
        raise LookupError("a single process trains more often")
    weights, metrics, state = recorder.trained.pop(0)
    start_from(model, weights)
    restore_random_state(state)
    trainer._logger_connector._callback_metrics.update(metrics)


@contextmanager
def single_process(recorder: EventRecorder) -> Iterator[None]:
    """Calls of neuralforecast run in a single process meanwhile; the random state is restored afterwards."""
    kept = random_state()
    recorder.is_reference_run = True
    try:
        yield
    finally:
        recorder.is_reference_run = False
        restore_random_state(kept)
        recorder.enable_stack_dumps()


@contextmanager
def restored_model(model: Any) -> Iterator[None]:
    """Restores the attributes of a model afterwards, with its lists and hyperparameters, which trainers change."""
    attributes = dict(vars(model))
    lists = {name: list(value) for name, value in attributes.items() if isinstance(value, list)}
    own: dict[str, Any] = attributes.get("_hparams", {})
    hyperparameters = dict(own)
    try:
        yield
    finally:
        vars(model).clear()
        vars(model).update({**attributes, **lists})
        own.clear()
        own.update(hyperparameters)


def models_of(subject: Any) -> list[Any]:
    """The models of a forecaster, trained ones in 1.6.0, or the model itself."""
    models = getattr(subject, "models_fitted", getattr(subject, "models", None))
    if isinstance(models, list):
        return list(models)
    return [subject] if hasattr(subject, "named_parameters") else []


class Call(NamedTuple):
    """A call of the script; `state` is the random state at its start."""

    number: int
    name: str
    method: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    state: Any

    def replay(self, subject: Any) -> Any:
        """Makes the call again with this forecaster, or for `load` with this path."""
        restore_random_state(self.state)
        return self.method(subject, *self.arguments[1:], **self.options)


def replay_in_single_process(recorder: EventRecorder, call: Call, answer: Any = None) -> None:
    """Makes a call again with a shallow copy of the forecaster, and records how the results differ.

    If the call failed on the ranks, `answer` is None, and it is recorded whether it fails in a single process too.
    """
    expected = None
    with ExitStack() as kept:
        kept.callback(recorder.trained.clear)
        kept.enter_context(recorder.catch_reference_error(ReferenceMade(call.number)))
        for model in models_of(call.arguments[0]):
            kept.enter_context(restored_model(model))
        kept.enter_context(single_process(recorder))
        expected = as_pandas(call.replay(copy.copy(call.arguments[0])))
    if expected is not None:
        differ = None if answer is None else difference_of(as_pandas(answer), expected)
        recorder.write(ReferenceMade(call.number, differ=differ))


def train_in_single_process(recorder: EventRecorder, call: Call) -> None:
    """Makes a call that failed in a training again with a copy of the models, and records an exception."""
    twin = copy.copy(call.arguments[0])
    shared: dict[int, Any] = {}  # a reference run uses no callbacks, and Lightning's hold locks, which nothing can copy
    for model in models_of(twin):
        vars(model).pop("_trainer", None)  # as neuralforecast does after a training
        for arguments in (getattr(model, "trainer_kwargs", {}), getattr(model, "hparams", {})):
            callbacks = arguments.get("callbacks")
            for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
                shared[id(callback)] = callback
    try:
        twin = copy.deepcopy(twin, shared)
    except Exception:
        return  # an error of the copy is none of the script
    recorder.trains_reference = True
    try:
        with recorder.catch_reference_error(ReferenceMade(call.number)), single_process(recorder):
            call.replay(twin)
    finally:
        recorder.trains_reference = False


def is_sampled(model: Any) -> bool:
    """Whether a validation compares random forecasts of a distribution with a loss of another kind."""
    losses = [getattr(model, name, None) for name in ("loss", "valid_loss")]
    is_distribution, is_judged_as_one = (getattr(loss, "is_distribution_output", False) for loss in losses)
    return bool(is_distribution) and not is_judged_as_one


def validate(recorder: EventRecorder, trainer: Any, model: Any, datamodule: Any) -> None:
    """Records the validation loss of all series in a single process, with the weights of the last validation.

    Left out if the loss is random, or if the weights were in another process.
    """
    if trainer.world_size < 2 or validation_loss_of(trainer) is None or is_sampled(model) or datamodule is None:
        return
    if recorder.validated is None and not is_validated_last(trainer):
        return
    import pytorch_lightning

    reference = ReferenceMade(*recorder.place())
    trains, trained = model.training, weights_of(model)
    try:
        with recorder.catch_reference_error(reference):
            with restored_model(model), single_process(recorder):
                start_from(model, recorder.validated or trained)
                judge = pytorch_lightning.Trainer()
                judge.validate(model, datamodule=datamodule, verbose=False)
            recorder.write(replace(reference, validation=validation_loss_of(judge)))
    finally:
        start_from(model, trained)
        model.train(trains)


def is_validated_last(trainer: Any) -> bool:
    """Whether there was a validation after the last step of the training."""
    every = trainer.val_check_interval
    return not isinstance(every, int) or trainer.global_step % every == 0
