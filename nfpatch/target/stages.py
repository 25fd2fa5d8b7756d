"""What a user's script does after `fit`, on every rank, held against what one process with the same weights gives.

At the end, STAGES names all stages; some are trainings that go another way than a plain `fit`.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Callable
from unittest import mock

from .comparing import seed_everything, start_from, weights_of
from .data import levelled_data
from .events import CaseSpec, ReferenceMade
from .models import EARLY_STOPPING, OTHER_SHAPES, SMALL_SIZES, trained_model_of
from .observing import is_multivariate
from .outcomes import Differs, message_of
from .plain_fit import one_process
from .pretended.pretended_gpus import pretend
from .script import Script, cut_of
from .session import Session

# A validation loss is a sum over series, and the ranks may add in another order.
LOSS_TOLERANCE = 1e-6
# Stages whose training is another than that of the others
TRAINED_OTHERWISE = ("ray-search", "single-series", "cut-files", "several-tasks", "on-dbfs")
STEPS_TO_STOP_IN = 20
FAILURE = "what is planted in a step"
# What goes into the file of a model that was trained on two GPUs
TWO_GPUS = {"accelerator": "gpu", "devices": 2, "strategy": "ddp"}


def run(case: CaseSpec, session: Session) -> None:
    """Runs the script of a case to its stage. Raises Differs where that does not end as it does in one process."""
    stage = STAGES[case.stage]
    try:
        script = script_of(case, session)
        try:
            stage(script)
        finally:
            if stage is not fit_again:  # what follows the training is trained too, and is not what the ranks must share
                script.restore_training()
    except Exception as error:
        if case.patch is None:  # else it is known that one process is not refused
            training, frames = replace(session.observation.training), [*session.frames]
            if message_of(error) == refusal_alone(case, session):
                session.found.append(ReferenceMade(session.number, error=message_of(error)))
            session.observation.training, session.frames = training, frames
        raise


def script_of(case: CaseSpec, session: Session) -> Script:
    """The script of a case; one that an earlier case has trained alike goes on."""
    stage = case.stage if case.stage in TRAINED_OTHERWISE else None
    said = [case.tree, case.model, case.loss, case.options, cut_of(case, session.spec.world_size + 1), stage]
    key = json.dumps(said, sort_keys=True)
    if key not in session.scripts:
        session.scripts[key] = Script(case, session)
    script: Script = session.scripts[key] if case.stage != "refit" else session.scripts.pop(key)
    script.case = case
    script.restore_training()
    return script


def refusal_alone(case: CaseSpec, session: Session) -> str | None:
    """The words of the error that the script ends with in this process alone; None if it does not.

    Of DeepAR, what is loaded draws other samples than what was saved.
    """
    try:
        STAGES[case.stage](Script(case, session, is_alone=True))
    except Exception as error:
        return message_of(error)
    return None


def validate(script: Script) -> None:
    """The validation losses, and where it is asked for, the step at which they stop the training."""
    options = script.case.options
    if options.get("val_monitor") != "train_loss":  # which is that of the windows that were drawn
        compare_losses(script)
    if EARLY_STOPPING in options:
        stop_early(script)


def compare_losses(script: Script) -> None:
    """The validation losses of unchanged weights."""
    known = inspect.signature(type(trained_model_of(script.forecaster)).__init__).parameters
    options = {"val_check_steps": 1} if "val_check_steps" in known else {}

    def losses(trainer: Callable[[], dict[str, Any]]) -> list[float]:
        forecaster = script.still(trainer, **options)
        script.observed.validated = ()
        script.fit(forecaster, is_watched=trainer != script.alone)
        return list(script.observed.validated)

    found, due = losses(script.together), losses(script.alone)
    if not due or len(found) != len(due):
        raise Differs(f"{len(found)} validations where one process has {len(due)}")
    for loss, other in zip(found, due):
        if not abs(loss - other) <= LOSS_TOLERANCE * abs(other):
            raise Differs(f"the validation loss is {loss:.9g} where one process has {other:.9g}")


def predict(script: Script) -> None:
    """`predict`, for the end of the data."""
    if script.is_on_spark:
        predict_on_spark(script)
    else:
        compare_with_one_process(script, lambda forecaster: forecaster.predict())


def insample(script: Script) -> None:
    """`predict_insample`, over all that was trained on."""
    compare_with_one_process(script, lambda forecaster: forecaster.predict_insample(step_size=1))


def cross_validation(script: Script) -> None:
    """`cross_validation` over two windows, trained once, and where the release can, once a window."""
    knows_refit = "refit" in inspect.signature(script.package.NeuralForecast.cross_validation).parameters
    for refit in (False, True) if knows_refit else (None,):
        options = {} if refit is None else {"refit": refit}
        found, due = (cross_validated(script, trainer, 1, options) for trainer in (script.together, script.alone))
        recorded = [*script.session.frames]
        try:
            script.compare(found, due)
        except Differs:
            if cross_validated(script, script.alone, 2, options).equals(due):
                raise
            # It draws samples, of a stream that the training has left elsewhere: rows and their order are compared
            script.session.frames[:] = recorded
            names = [name for name in due.columns if due[name].dtype.kind == "f"]
            script.compare(found.drop(columns=names), due.drop(columns=names))


def cross_validated(script: Script, trainer: Callable[[], dict[str, Any]], seed: int, options: dict[str, Any]) -> Any:
    """The frame of `cross_validation` with the trained weights; `seed` is the model's."""
    forecaster = script.still(trainer, random_seed=seed)
    return forecaster.cross_validation(df=script.data.past, n_windows=2, step_size=12, **options)


def search(script: Script) -> None:
    """The search that the training was: all ranks have tried the same, and chosen the same."""
    searched = getattr(script.forecaster, "models_fitted", script.forecaster.models)[0]
    found = attempts_of(searched.results)
    due = script.gathered(found)[0]
    if len(found) != len(due):
        raise Differs(f"has tried {len(found) - 1} configurations, and rank 0 {len(due) - 1}")
    for own, other in zip(found, due):
        if own != other:
            raise Differs(f"has tried {own}; rank 0, {other}")


def attempts_of(results: Any) -> list[str]:
    """Each trial of Optuna's study or of ray's results, as this rank knows it, and the best."""
    if hasattr(results, "trials"):
        trained = [searched_in(trial.user_attrs["ALL_PARAMS"]) for trial in results.trials]
        tried = [
            f"{trial.number}: {trial.params}, loss {trial.value}, trained with {arguments}"
            for trial, arguments in zip(results.trials, trained)
        ]
        return [*tried, f"the best is {results.best_trial.number}"]
    tried = [f"{searched_in(result.config)}, loss {result.metrics['loss']}" for result in results]
    return [*tried, f"the best is {searched_in(results.get_best_result().config)}"]


def searched_in(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of a model, those that are searched."""
    return {name: arguments[name] for name in ("learning_rate", *OTHER_SHAPES) if name in arguments}


def fit_again(script: Script) -> None:
    """`fit` once more. What is observed is the second fit."""
    if script.is_on_spark:
        fit_from_weights(script)
    else:
        script.fit(script.forecaster)


def predict_on_spark(script: Script) -> None:
    """`predict` on Spark, compared with what one process predicts for the series that were predicted together.

    The last bits of a forecast depend on how many are made at once.
    """
    import pandas

    found, together = script.session.spark.predict(script.forecaster, script.case)
    past = script.data.past
    if is_multivariate(trained_model_of(script.forecaster)):
        together = [past["unique_id"].unique().tolist()]
    with one_process(script.forecaster, script.spec) as forecaster:
        expected = [forecaster.predict(df=past[past["unique_id"].isin(ids)]) for ids in together]
    frames = [frame if "unique_id" in frame.columns else frame.reset_index() for frame in expected]
    script.compare(found, pandas.concat(frames).sort_values(["unique_id", "ds"]).reset_index(drop=True))


def fit_from_weights(script: Script) -> None:
    """`fit` of a model that has been trained, which keeps its weights at a learning rate of zero."""
    import torch

    forecaster = script.made(script.together, learning_rate=0.0)
    start_from(trained_model_of(forecaster), script.weights)
    script.fit(forecaster)
    found = weights_of(trained_model_of(forecaster))
    other = [name for name in found if not torch.equal(found[name], script.weights[name])]
    if other:
        raise Differs(f"fit has not started from {len(other)} of {len(found)} weights that the model had")


def compare_with_one_process(script: Script, asked: Callable[[Any], Any]) -> None:
    """Raises Differs where the ranks' answer is not that of one process."""
    seed_everything()
    found = asked(script.forecaster)
    seed_everything()
    with one_process(script.forecaster, script.spec) as forecaster:
        script.compare(found, asked(forecaster))


def save(script: Script) -> None:
    """`save` on every rank, and on each at once `load`; whichever of the ranks comes first."""
    complaint, frames = None, []
    with saveable(script) as forecaster:
        for first in range(script.size):
            folder = folder_of(script, f"saved-{first}")
            for is_turn in (script.rank == first, script.rank != first):
                if is_turn and complaint is None:
                    try:
                        forecaster.save(folder, overwrite=False)
                        frames.append(alone_with(loaded(script, folder), script))
                    except Exception as error:  # the others are to go on
                        complaint = error
                script.gathered(None)
    if complaint is not None:
        raise complaint
    expected = alone_with(forecaster, script)
    for frame in frames:
        script.compare(frame, expected)


def load(script: Script) -> None:
    """`load` on every rank of what one of them has saved, and `predict`."""
    folder = folder_of(script, "saved-by-one")
    with saveable(script) as forecaster:
        try:
            if script.rank == 0:
                forecaster.save(folder, overwrite=False)
        finally:
            script.gathered(None)
    script.compare(forecasts_of(loaded(script, folder)), alone_with(forecaster, script))


@contextmanager
def saveable(script: Script) -> Iterator[Any]:
    """A trained forecaster without a callback of ours, which could not be saved.

    Up to 1.4.0 a model is saved by its last trainer, which is gone after a prediction, or whenever Python has collected
    garbage, with one process as well: therefore none is collected meanwhile.
    """
    forecaster = script.still(lambda: dict(script.together(), callbacks=[]))
    gc.disable()
    try:
        script.fit(forecaster, is_watched=False)
        yield forecaster
    finally:
        gc.enable()


def alone_with(forecaster: Any, script: Script) -> Any:
    """What one process predicts."""
    with one_process(forecaster, script.spec):
        return forecasts_of(forecaster)


def forecasts_of(forecaster: Any) -> Any:
    """What it predicts. Some models draw samples for that."""
    seed_everything()
    return forecaster.predict()


def folder_of(script: Script, name: str) -> str:
    """A folder of this case, the same on every rank of a node; in a script of this process alone, its own."""
    owner = f"-of-{os.getpid()}" if script.world is None else ""
    return os.path.join(script.spec.out, f"{name}-{script.spec.cases.index(script.case)}{owner}")


def loaded(script: Script, folder: str) -> Any:
    """The forecaster in a folder.

    torch 2.6 and newer load what releases before 3.0 have saved by a switch only, which is no fault of DDP.
    """
    with mock.patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        return script.package.NeuralForecast.load(folder)


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

    def arguments() -> dict[str, Any]:
        return {name: value for name, value in script.together().items() if name != "enable_progress_bar"}

    forecaster = script.made(arguments)
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
    model, due = trained_model_of(script.forecaster), script.training
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
    of_ranks = [training.losses for training in script.session.observation.of_ranks]
    of_ranks = of_ranks or script.gathered(script.observed.losses)
    for step, losses in enumerate(zip(*of_ranks), 1):
        if len(set(losses)) < len(losses):
            raise Differs(
                f"ranks train on the same windows of a series, as all have the loss {losses[0]} in step {step}"
            )


def one_order(script: Script) -> None:
    """The series of a multivariate model: at every step in the order of the data."""
    for trainer in (script.together, script.alone):
        script.fit(script.made(trainer), is_watched=trainer == script.together)
        orders = list(dict.fromkeys(script.observed.batches))
        script.observed.batches = ()
        if len(orders) > 1:
            raise Differs(f"the series came in {len(orders)} orders")


def fewer_devices(script: Script) -> None:
    """A model that was saved where there were two GPUs, trained further where there is one; one that is pretended."""
    forecaster = script.made(lambda: dict(script.alone(), callbacks=[]))
    script.fit(forecaster, is_watched=False)
    folder = folder_of(script, "saved")
    if script.rank == 0:
        with mock.patch.dict(trained_model_of(forecaster).hparams, TWO_GPUS):
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


def stop_early(script: Script) -> None:
    """Early stopping: all ranks at the step at which one process stops with these losses."""
    forecaster = script.made(script.together, max_steps=STEPS_TO_STOP_IN, val_check_steps=1, learning_rate=1.0)
    add_early_stopping(trained_model_of(forecaster))
    script.observed.validated = ()
    script.fit(forecaster)
    losses: list[float] = list(script.observed.validated)
    steps = script.observed.steps
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


STAGES: dict[str, Callable[[Script], None]] = {
    "validate": validate,
    "predict": predict,
    "single-series": predict,
    "cut-files": predict,
    "several-tasks": predict,
    "on-dbfs": predict,
    "insample": insample,
    "cross-validation": cross_validation,
    "search": search,
    "ray-search": search,
    "save": save,
    "load": load,
    "no-batch": no_batch,
    "strategy-object": strategy_object,
    "own-callbacks": own_callbacks,
    "failing-rank": failing_rank,
    "trajectories": trajectories,
    "several-threads": several_threads,
    "one-series": one_series,
    "one-order": one_order,
    "fewer-devices": fewer_devices,
    "refit": fit_again,
}
