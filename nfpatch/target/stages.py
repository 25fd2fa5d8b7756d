"""What a user's script does after `fit`, on every rank, compared with one process that has the same weights.

STAGES, at the end, names all stages; some are trainings other than a plain `fit`.
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
from functools import partial
from typing import Any, Callable
from unittest import mock

from .comparing import seed_everything, start_from, weights_of
from .data import levelled_series
from .events import CaseSpec, ReferenceMade, Training
from .frames import as_pandas
from .models import EARLY_STOPPING, OTHER_SHAPES, trained_model_of
from .observing import is_multivariate
from .outcomes import Differs, message_of
from .plain_fit import one_process
from .pretended.pretended_gpus import pretend
from .script import Script, cut_of
from .session import Session

# A validation loss is a sum over series, which the ranks may add in another order.
LOSS_TOLERANCE = 1e-6
# Stages with a training of their own
TRAINED_OTHERWISE = ("ray-search", "single-series", "cut-files", "several-tasks", "on-dbfs")
STEPS_TO_STOP_IN = 20
FAILURE = "what is planted in a step"
# In the file of a model that was trained on two GPUs
TWO_GPUS = {"accelerator": "gpu", "devices": 2, "strategy": "ddp"}


def run_stage(case: CaseSpec, session: Session) -> None:
    """Runs the script of a case to its stage. Raises Differs if the result differs from that of one process."""
    stage = STAGES[case.stage]
    try:
        script = reuse_script(case, session)
        try:
            stage(script)
        finally:
            if stage is not fit_again:  # trainings of the stage are not what the ranks must have in common
                script.restore_training()
    except Exception as error:
        if case.patch is None:  # else it is known that one process does not raise
            recorded = session.observation.training, session.frames
            session.observation.training, session.frames = Training(), []
            if message_of(error) == single_process_error(case, session):
                session.events.append(ReferenceMade(session.number, error=message_of(error)))
            session.observation.training, session.frames = recorded
        raise


def reuse_script(case: CaseSpec, session: Session) -> Script:
    """The script of a case, which may be one that an earlier case has trained."""
    stage = case.stage if case.stage in TRAINED_OTHERWISE else None
    training = [case.tree, case.model, case.loss, case.options, cut_of(case, session.spec.world_size + 1), stage]
    key = json.dumps(training, sort_keys=True)
    if key not in session.scripts:
        session.scripts[key] = Script(case, session)
    script: Script = session.scripts[key] if case.stage != "refit" else session.scripts.pop(key)
    script.case = case
    script.restore_training()
    return script


def single_process_error(case: CaseSpec, session: Session) -> str | None:
    """The error of the script in this process alone, which may be a difference; None if there is none.

    A DeepAR that was loaded draws other samples than the one that was saved.
    """
    try:
        STAGES[case.stage](Script(case, session, is_alone=True))
    except Exception as error:
        return message_of(error)
    return None


def validate(script: Script) -> None:
    """The validation losses, and for a case with early stopping, the step at which they stop the training."""
    options = script.case.options
    if options.get("val_monitor") != "train_loss":  # which depends on the windows that a rank draws
        compare_losses(script)
    if EARLY_STOPPING in options:
        stop_early(script)


def compare_losses(script: Script) -> None:
    """The validation losses of unchanged weights."""
    known = inspect.signature(type(trained_model_of(script.forecaster)).__init__).parameters
    options = {"val_check_steps": 1} if "val_check_steps" in known else {}

    def losses(trainer: Callable[[], dict[str, Any]], is_watched: bool) -> list[float]:
        forecaster = script.make_with_fixed_weights(trainer, **options)
        script.observed.validated = ()
        script.fit(forecaster, is_watched)
        return list(script.observed.validated)

    actual, expected = losses(script.trainer_arguments, True), losses(script.reference_arguments, False)
    if not expected or len(actual) != len(expected):
        raise Differs(f"{len(actual)} validations where one process has {len(expected)}")
    for loss, reference in zip(actual, expected):
        if not abs(loss - reference) <= LOSS_TOLERANCE * abs(reference):
            raise Differs(f"the validation loss is {loss:.9g} where one process has {reference:.9g}")


def predict(script: Script) -> None:
    """`predict`, for the end of the data."""
    if script.is_on_spark:
        predict_on_spark(script)
    else:
        script.compare(forecast(script.forecaster), forecast_in_one_process(script, script.forecaster))


def insample(script: Script) -> None:
    """`predict_insample`, over all the training data."""
    actual = forecast(script.forecaster, "predict_insample", step_size=1)
    script.compare(actual, forecast_in_one_process(script, script.forecaster, "predict_insample", step_size=1))


def forecast(forecaster: Any, method: str = "predict", **options: Any) -> Any:
    """The forecasts of a method, for which some models draw samples."""
    seed_everything()
    return getattr(forecaster, method)(**options)


def forecast_in_one_process(script: Script, forecaster: Any, method: str = "predict", **options: Any) -> Any:
    """The forecasts of one process."""
    with one_process(forecaster, script.spec):
        return forecast(forecaster, method, **options)


def cross_validation(script: Script) -> None:
    """`cross_validation` over two windows, trained once, and if the release supports it, for each window."""
    from neuralforecast import NeuralForecast

    has_refit = "refit" in inspect.signature(NeuralForecast.cross_validation).parameters
    for options in ({"refit": False}, {"refit": True}) if has_refit else ({},):
        actual = cross_validate(script, script.trainer_arguments, 1, options)
        expected = cross_validate(script, script.reference_arguments, 1, options)
        try:
            script.compare(actual, expected)
        except Differs:
            if cross_validate(script, script.reference_arguments, 2, options).equals(expected):
                raise
            # The model draws samples, and the trainings have left the random streams at different places: only rows
            # and their order are compared
            script.session.frames.pop()
            names = [name for name in expected.columns if expected[name].dtype.kind == "f"]
            script.compare(actual.drop(columns=names), expected.drop(columns=names))


def cross_validate(script: Script, trainer: Callable[[], dict[str, Any]], seed: int, options: dict[str, Any]) -> Any:
    """The frame of `cross_validation` with the trained weights; `seed` is the model's."""
    forecaster = script.make_with_fixed_weights(trainer, random_seed=seed)
    return forecaster.cross_validation(df=script.past, n_windows=2, step_size=12, **options)


def search(script: Script) -> None:
    """The search that the training was: all ranks have tried the same configurations, and chosen the same one."""
    searched = getattr(script.forecaster, "models_fitted", script.forecaster.models)[0]
    actual = trials_of(searched.results)
    expected = script.world.gather(actual)[0]
    if len(actual) != len(expected):
        raise Differs(f"has tried {len(actual) - 1} configurations, and rank 0 {len(expected) - 1}")
    for own, other in zip(actual, expected):
        if own != other:
            raise Differs(f"has tried {own}; rank 0, {other}")


def trials_of(results: Any) -> list[str]:
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
    """`fit` once more. The second fit is what the ranks must have in common."""
    if script.is_on_spark:
        fit_from_weights(script)
    else:
        script.fit(script.forecaster)


def predict_on_spark(script: Script) -> None:
    """`predict` on Spark, compared with what one process predicts for the series of each partition.

    The last bits of a forecast depend on how many are made at once.
    """
    import pandas

    actual, partitions = script.session.spark.predict(script.forecaster, script.case)
    past = script.past
    if is_multivariate(trained_model_of(script.forecaster)):
        partitions = [past["unique_id"].unique().tolist()]
    with one_process(script.forecaster, script.spec):
        frames = [as_pandas(script.forecaster.predict(df=past[past["unique_id"].isin(ids)])) for ids in partitions]
    script.compare(actual, pandas.concat(frames).sort_values(["unique_id", "ds"]).reset_index(drop=True))


def fit_from_weights(script: Script) -> None:
    """`fit` of a trained model, which keeps its weights at a learning rate of zero."""
    import torch

    forecaster = script.make_forecaster(learning_rate=0.0)
    start_from(trained_model_of(forecaster), script.weights)
    script.fit(forecaster)
    actual = weights_of(trained_model_of(forecaster))
    different = [name for name in actual if not torch.equal(actual[name], script.weights[name])]
    if different:
        raise Differs(f"fit has not started from {len(different)} of {len(actual)} weights that the model had")


def save(script: Script) -> None:
    """`save` on every rank, in whatever order, each followed by `load`."""
    failure, frames = None, []
    with saveable_forecaster(script) as forecaster:
        for first in range(script.world.size):
            folder = folder_of(script, f"saved-{first}")
            for is_turn in (script.world.rank == first, script.world.rank != first):
                if is_turn and failure is None:
                    try:
                        forecaster.save(folder, overwrite=False)
                        frames.append(forecast_in_one_process(script, load_from(folder)))
                    except Exception as error:  # the other ranks must go on
                        failure = error
                script.world.gather(None)
    if failure is not None:
        raise failure
    expected = forecast_in_one_process(script, forecaster)
    for frame in frames:
        script.compare(frame, expected)


def load(script: Script) -> None:
    """`load` on every rank of what one of them has saved, and `predict`."""
    folder = folder_of(script, "saved-by-one")
    with saveable_forecaster(script) as forecaster:
        try:
            if script.world.rank == 0:
                forecaster.save(folder, overwrite=False)
        finally:
            script.world.gather(None)
    script.compare(forecast(load_from(folder)), forecast_in_one_process(script, forecaster))


@contextmanager
def saveable_forecaster(script: Script) -> Iterator[Any]:
    """A trained forecaster without the observing callback, which cannot be saved.

    Up to 1.4.0 a model is saved by its last trainer, which is gone after a prediction, or whenever Python has collected
    garbage, with one process as well: therefore none is collected meanwhile.
    """
    forecaster = script.make_with_fixed_weights(lambda: dict(script.trainer_arguments(), callbacks=[]))
    gc.disable()
    try:
        script.fit(forecaster, is_watched=False)
        yield forecaster
    finally:
        gc.enable()


def folder_of(script: Script, name: str) -> str:
    """A folder of this case, the same on every rank of a node; in a script of this process alone, its own."""
    owner = f"-of-{os.getpid()}" if script.is_alone else ""
    return os.path.join(script.spec.out, f"{name}-{script.spec.cases.index(script.case)}{owner}")


def load_from(folder: str) -> Any:
    """The forecaster in a folder.

    torch 2.6 and newer load what releases before 3.0 have saved only with a switch, which has nothing to do with DDP.
    """
    from neuralforecast import NeuralForecast

    with mock.patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        return NeuralForecast.load(folder)


def no_batch(script: Script) -> None:
    """A fit in which the series of each rank are no full batch, and are dropped: it must raise an error."""
    forecaster = script.make_forecaster(batch_size=script.n_series, drop_last_loader=True)
    try:
        script.fit(forecaster, is_watched=False)
    except Exception as error:
        if "drop_last_loader=True" not in str(error):
            raise
    else:
        raise Differs("fit has returned an untrained model, without a word")


def strategy_object(script: Script) -> None:
    """Two fits of a model with the same strategy object."""
    registry = importlib.import_module("pytorch_lightning.strategies").StrategyRegistry
    strategy = registry.get(script.trainer_arguments()["strategy"])
    forecaster = script.make_forecaster(lambda: dict(script.trainer_arguments(), strategy=strategy))
    for _ in range(2):
        script.fit(forecaster, further=True)


def own_callbacks(script: Script) -> None:
    """A training with callbacks of the user and of Lightning: no trainer must be saved along with the weights.

    Lightning's own launcher has put the processes into the first one, which cannot be saved.
    """

    def arguments() -> dict[str, Any]:
        return {name: value for name, value in script.trainer_arguments().items() if name != "enable_progress_bar"}

    forecaster = script.make_forecaster(arguments)
    for _ in range(2):
        script.fit(forecaster, further=True)
        callbacks = trained_model_of(forecaster).hparams["callbacks"]
        holding = [type(each).__name__ for each in callbacks if getattr(each, "_trainer", None) is not None]
        if holding:
            raise Differs(f"the trainer, and all processes, would be saved with {', '.join(holding)}")


def failing_rank(script: Script) -> None:
    """A fit whose first step fails on the last rank: all ranks must raise its error, and be able to train again."""
    forecaster = script.make_forecaster()
    model = trained_model_of(forecaster)
    model.training_step = partial(fail_on_last_rank, model)
    message = None
    try:
        script.fit(forecaster, is_watched=False)
    except Exception as error:
        message = message_of(error)
    for rank, other in enumerate(script.world.gather(message)):
        if other is None or FAILURE not in other:
            raise Differs(f"fit ends on rank {rank} with {other!r}, after a step that failed on one rank")
    script.fit(script.make_forecaster())


def fail_on_last_rank(model: Any, *batch: Any) -> Any:
    """A training step that fails on the last rank."""
    if model.global_rank == model.trainer.world_size - 1:
        raise RuntimeError(FAILURE)
    return type(model).training_step(model, *batch)


def trajectories(script: Script) -> None:
    """The losses that the model keeps, after a fit in whatever processes."""
    model, expected = trained_model_of(script.forecaster), script.training
    losses = [loss for _, loss in model.train_trajectories]
    if losses != list(expected.losses):
        raise Differs(f"train_trajectories has {losses}, and the training of the first process {list(expected.losses)}")
    if len(model.valid_trajectories) < len(expected.validated):
        raise Differs(f"valid_trajectories has {model.valid_trajectories} after {len(expected.validated)} validations")


def several_threads(script: Script) -> None:
    """A fit after this process has computed with two threads, which a forked process does not have."""
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1000, 1000).sum()
        script.fit(script.make_forecaster())
        if torch.get_num_threads() != 2:
            raise Differs(f"this process has {torch.get_num_threads()} threads after the fit, and had 2")
    finally:
        torch.set_num_threads(threads)


def one_series(script: Script) -> None:
    """A training on one series: each rank draws windows, and so has losses, of its own."""
    script.fit(script.make_forecaster(), past=levelled_series(1, 0, script.spec.world_size))
    by_rank = [training.losses for training in script.session.observation.of_ranks]
    by_rank = by_rank or script.world.gather(script.observed.losses)
    for step, losses in enumerate(zip(*by_rank), 1):
        if len(set(losses)) < len(losses):
            raise Differs(
                f"ranks train on the same windows of a series, as all have the loss {losses[0]} in step {step}"
            )


def one_order(script: Script) -> None:
    """The series of a multivariate model: at every step in the order of the data."""
    for trainer, is_watched in ((script.trainer_arguments, True), (script.reference_arguments, False)):
        script.fit(script.make_forecaster(trainer), is_watched)
        orders = set(script.observed.batches)
        script.observed.batches = ()
        if len(orders) > 1:
            raise Differs(f"the series came in {len(orders)} orders")


def fewer_devices(script: Script) -> None:
    """A model that was saved where there were two GPUs is trained further where there is one, a pretended one."""
    forecaster = script.make_forecaster(lambda: dict(script.reference_arguments(), callbacks=[]))
    script.fit(forecaster, is_watched=False)
    folder = folder_of(script, "saved")
    if script.world.rank == 0:
        with mock.patch.dict(trained_model_of(forecaster).hparams, TWO_GPUS):
            forecaster.save(folder)
    script.world.gather(None)
    undo = pretend(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            further = load_from(folder)
        script.fit(further, is_watched=False, further=True)
        actual = further.predict()
    finally:
        undo()
    script.fit(forecaster, is_watched=False, further=True)
    script.compare(actual, forecast_in_one_process(script, forecaster))


def stop_early(script: Script) -> None:
    """Early stopping: all ranks stop at the step at which one process stops with these losses."""
    forecaster = script.make_forecaster(max_steps=STEPS_TO_STOP_IN, val_check_steps=1, learning_rate=10.0)
    add_early_stopping(trained_model_of(forecaster))
    script.observed.validated = ()
    script.fit(forecaster)
    losses: list[float] = list(script.observed.validated)
    steps = script.observed.steps
    for rank, (other_losses, other_steps) in enumerate(script.world.gather((losses, steps))):
        if other_losses != losses:
            raise Differs(f"early stopping goes by the losses {losses}, and on rank {rank} by {other_losses}")
        if other_steps != steps:
            raise Differs(f"stopped after {steps} steps, and rank {rank} after {other_steps}")
    expected = stops_after(losses, script.case.options[EARLY_STOPPING])
    if len(losses) != expected or steps != expected:
        raise Differs(f"stopped after {steps} steps, where one process with the losses {losses} stops after {expected}")


def add_early_stopping(model: Any) -> None:
    """Makes a model stop early if its release does not when it is given callbacks, as before 1.7.1."""
    from pytorch_lightning.callbacks import EarlyStopping

    callbacks = model.trainer_kwargs["callbacks"]
    if not any(isinstance(callback, EarlyStopping) for callback in callbacks):
        callbacks.append(EarlyStopping(monitor="ptl/val_loss", patience=model.early_stop_patience_steps))


def stops_after(losses: Sequence[float], patience: int) -> int | None:
    """The number of losses after which Lightning's `EarlyStopping(patience)` stops; None if it does not."""
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
