"""What one process gives, asked of the first rank, in its own process, between two statements of the script.

A call is made again with a trainer for this process alone. Where it trains, it is given the weights with which the
training of all ranks has ended, so that what differs is not what was learned.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from ..comparing import start_from, weights_of
from ..frames import as_pandas, difference_of
from ..outcomes import message_of
from .noting import Notes

# By release, the name of the loss that neuralforecast reports of a validation
VALIDATION_LOSSES = ("ptl/val_loss", "valid_loss")
# The trainings of the call under way: the weights with which each has ended, and its metrics
WEIGHTS: list[tuple[dict[str, Any], dict[str, Any]]] = []


def keep(trainer: Any, model: Any) -> None:
    """Keeps what a training has come to until the call has ended."""
    WEIGHTS.append((weights_of(model), dict(trainer.callback_metrics)))


def train_again(trainer: Any, model: Any) -> None:
    """Gives a model what the training has come to that is made again; raises LookupError if there was none."""
    if not WEIGHTS:
        raise LookupError("one process trains more often")
    weights, metrics = WEIGHTS.pop(0)
    start_from(model, weights)
    trainer._logger_connector._callback_metrics.update(metrics)


@contextmanager
def one_process(notes: Notes) -> Iterator[None]:
    """What neuralforecast is asked for meanwhile, this process does alone; its random numbers come as they would."""
    import numpy
    import torch

    kept = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    notes.is_alone = True
    try:
        yield
    finally:
        notes.is_alone = False
        random.setstate(kept[0])
        numpy.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
        notes.watch_place()


def ask_again(
    notes: Notes,
    number: int,
    method: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    answer: Any,
) -> None:
    """Makes a call again, of a shallow copy of the forecaster, and notes in what its answer differs.

    Where all ranks together got no answer, it is noted whether one process is refused as well.
    """
    kept = [(model, dict(vars(model))) for model in getattr(arguments[0], "models", [])]
    try:
        with one_process(notes):
            due = method(copy.copy(arguments[0]), *arguments[1:], **options)
    except Exception as error:
        notes.write("alone", number=number, error=message_of(error)[:1000])
        return
    finally:
        for model, attributes in kept:
            vars(model).update(attributes)
        WEIGHTS.clear()
    found, due = as_pandas(answer), as_pandas(due)
    if due is not None:
        notes.write("alone", number=number, differ=None if found is None else difference_of(found, due))


def train_alone(
    notes: Notes, number: int, method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Makes a call again that has failed where it trains, with a copy of the models, and notes how that ends."""
    twin = copy.copy(arguments[0])
    try:
        for model in getattr(twin, "models", [twin]):
            vars(model).pop("_trainer", None)  # as neuralforecast does itself, after a training that went well
        twin = copy.deepcopy(twin)
        notes.trains_alone = True
        with one_process(notes):
            method(twin, *arguments[1:], **options)
    except Exception as error:
        notes.write("alone", number=number, error=message_of(error)[:1000])
    finally:
        notes.trains_alone = False


def validation_loss_of(trainer: Any) -> float | None:
    """The loss of the last validation; None if there was none."""
    for name in VALIDATION_LOSSES:
        if name in trainer.callback_metrics:
            return float(trainer.callback_metrics[name])
    return None


def validate(notes: Notes, trainer: Any, model: Any, datamodule: Any) -> None:
    """Notes the validation loss of the trained weights, of all series, if that is no matter of chance."""
    is_sampled = getattr(getattr(model, "valid_loss", None), "is_distribution_output", False)
    if trainer.world_size < 2 or validation_loss_of(trainer) is None or is_sampled or datamodule is None:
        return
    import pytorch_lightning

    number, index = notes.place()
    before = dict(vars(model))
    lists = {name: list(value) for name, value in before.items() if isinstance(value, list)}
    trains = model.training
    try:
        with one_process(notes):
            judge = pytorch_lightning.Trainer()
            judge.validate(model, datamodule=datamodule, verbose=False)
        notes.write("alone", number=number, index=index, validation=validation_loss_of(judge))
    except Exception as error:
        notes.write("alone", number=number, index=index, validation=None, error=message_of(error)[:1000])
    finally:
        vars(model).clear()
        vars(model).update({**before, **lists})
        model.train(trains)
