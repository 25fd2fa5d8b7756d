"""Trainings that go another way than `fit` of a script: stages of a case, as `script_stages` runs them."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .data import levelled_data
from .models import EARLY_STOPPING, SMALL_SIZES, trained_model_of
from .outcomes import Differs, message_of
from .pretended.pretended_gpus import pretend
from .saving import alone_with, folder_of, loaded
from .script import Script

STEPS_TO_STOP_IN = 20
FAILURE = "what is planted in a step"
# What goes into the file of a model that was trained on two GPUs
TWO_GPUS = {"accelerator": "gpu", "devices": 2, "strategy": "ddp"}


def no_batch(script: Script) -> None:
    """A fit in which each rank's share of the series is no whole batch, and is dropped: it must say so."""
    forecaster = script.made(script.together, batch_size=script.n_series, drop_last_loader=True)
    try:
        script.fit(forecaster, is_watched=False)
    except Exception as error:
        if "drop_last_loader=True" not in str(error):
            raise
    else:
        raise Differs("fit has returned an untrained model, without a word")


def strategy_object(script: Script) -> None:
    """Two fits of a model with one and the same strategy object."""
    registry = importlib.import_module("pytorch_lightning.strategies").StrategyRegistry
    strategy = registry.get(script.together()["strategy"])
    forecaster = script.made(lambda: dict(script.together(), strategy=strategy))
    for _ in range(2):
        script.fit(forecaster, further=True)


def own_callbacks(script: Script) -> None:
    """A training with a callback of the user's and Lightning's own: no trainer is saved along with the weights.

    Lightning's own launcher has put the processes into the first one, which cannot be saved.
    """

    def told() -> dict[str, Any]:
        return {name: value for name, value in script.together().items() if name != "enable_progress_bar"}

    forecaster = script.made(told)
    for _ in range(2):
        script.fit(forecaster, further=True)
        callbacks = trained_model_of(forecaster).hparams["callbacks"]
        holding = [type(each).__name__ for each in callbacks if getattr(each, "_trainer", None) is not None]
        if holding:
            raise Differs(f"the trainer, and all processes, would be saved with {', '.join(holding)}")


def failing_rank(script: Script) -> None:
    """A fit whose first step fails on the last rank: it ends on all in the same words, and they can train on."""
    forecaster = script.made(script.together)
    model = trained_model_of(forecaster)
    model.training_step = partial(fail_on_last_rank, model)
    words = None
    try:
        script.fit(forecaster, is_watched=False)
    except Exception as error:
        words = message_of(error)
    for rank, other in enumerate(script.gathered(words)):
        if other is None or FAILURE not in other:
            raise Differs(f"fit ends on rank {rank} with {other!r}, after a step that failed on one rank")
    script.fit(script.made(script.together))


def fail_on_last_rank(model: Any, *batch: Any) -> Any:
    """A training step that fails, if it is that of the last rank."""
    if model.global_rank == model.trainer.world_size - 1:
        raise RuntimeError(FAILURE)
    return type(model).training_step(model, *batch)


def trajectories(script: Script) -> None:
    """The losses that the model keeps, after a fit in whatever processes."""
    model, due = trained_model_of(script.forecaster), script.evidence
    losses = [loss for _, loss in model.train_trajectories]
    if losses != list(due.losses):
        raise Differs(f"train_trajectories has {losses}, and the training of the first process {list(due.losses)}")
    if len(model.valid_trajectories) < len(due.validated):
        raise Differs(f"valid_trajectories has {model.valid_trajectories} after {len(due.validated)} validations")


def several_threads(script: Script) -> None:
    """A fit after this process has computed with two threads, which a forked process does not have."""
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1000, 1000).sum()
        script.fit(script.made(script.together))
        if torch.get_num_threads() != 2:
            raise Differs(f"this process has {torch.get_num_threads()} threads after the fit, and had 2")
    finally:
        torch.set_num_threads(threads)


def one_series(script: Script) -> None:
    """A training on one series: each rank has losses of its own, as it has windows of its own."""
    script.fit(script.made(script.together), past=levelled_data(SMALL_SIZES["h"], 1, 0).past)
    of_ranks = script.evidence_now.losses_of_ranks or script.gathered(script.evidence_now.losses)
    for step, losses in enumerate(zip(*of_ranks), 1):
        if len(set(losses)) < len(losses):
            raise Differs(
                f"ranks train on the same windows of a series, as all have the loss {losses[0]} in step {step}"
            )


def one_order(script: Script) -> None:
    """The series of a multivariate model: at every step in the order of the data."""
    for trainer in (script.together, script.alone):
        script.fit(script.made(trainer), is_watched=trainer == script.together)
        orders = list(dict.fromkeys(script.evidence_now.batches))
        script.evidence_now.batches = ()
        if len(orders) > 1:
            raise Differs(f"the series came in {len(orders)} orders")


def fewer_devices(script: Script) -> None:
    """A model that was saved where there were two GPUs, trained further where there is one; one that is pretended."""
    forecaster = script.made(lambda: dict(script.alone(), callbacks=[]))
    script.fit(forecaster, is_watched=False)
    folder = folder_of(script, "saved")
    if script.rank == 0:
        with as_if_trained_on(trained_model_of(forecaster), TWO_GPUS):
            forecaster.save(folder)
    script.gathered(None)
    undo = pretend(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            further = loaded(script, folder)
        script.fit(further, is_watched=False, further=True)
        found = further.predict()
    finally:
        undo()
    script.fit(forecaster, is_watched=False, further=True)
    script.compare(found, alone_with(forecaster, script))


@contextmanager
def as_if_trained_on(model: Any, trainer: dict[str, Any]) -> Iterator[None]:
    """What is saved of a model, for a while with these arguments of the trainer."""
    kept = {name: model.hparams[name] for name in trainer if name in model.hparams}
    model.hparams.update(trainer)
    try:
        yield
    finally:
        for name in trainer:
            del model.hparams[name]
        model.hparams.update(kept)


def stop_early(script: Script) -> None:
    """Early stopping: all ranks at the step at which one process stops with these losses."""
    forecaster = script.made(script.together, max_steps=STEPS_TO_STOP_IN, val_check_steps=1, learning_rate=1.0)
    add_early_stopping(trained_model_of(forecaster))
    script.evidence_now.validated = ()
    script.fit(forecaster)
    losses: list[float] = list(script.evidence_now.validated)
    steps = script.evidence_now.steps
    for rank, other in enumerate(script.gathered({"losses": losses, "steps": steps})):
        if other["losses"] != losses:
            others = other["losses"]
            raise Differs(f"early stopping goes by the losses {losses}, and on rank {rank} by {others}")
        if other["steps"] != steps:
            raise Differs(f"stopped after {steps} steps, and rank {rank} after {other['steps']}")
    expected = stops_after(losses, script.case.options[EARLY_STOPPING])
    if len(losses) != expected or steps != expected:
        raise Differs(f"stopped after {steps} steps, where one process with the losses {losses} stops after {expected}")


def add_early_stopping(model: Any) -> None:
    """Makes a model stop early where its release does not add to callbacks that it is given, as before 1.7.1."""
    from pytorch_lightning.callbacks import EarlyStopping

    callbacks = model.trainer_kwargs["callbacks"]
    if not any(isinstance(callback, EarlyStopping) for callback in callbacks):
        callbacks.append(EarlyStopping(monitor="ptl/val_loss", patience=model.early_stop_patience_steps))


def stops_after(losses: Sequence[float], patience: int) -> int | None:
    """After how many losses `EarlyStopping(patience)` of Lightning stops; None where these do not make it stop."""
    best, others = math.inf, 0
    for number, loss in enumerate(losses, 1):
        best, others = (loss, 0) if loss < best else (best, others + 1)
        if others >= patience or not math.isfinite(loss):
            return number
    return None
