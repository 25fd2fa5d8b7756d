"""What a user's script does after `fit`, on every rank, held against what one process with the same weights gives."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import Any, Callable

from . import training_stages
from .comparing import seed_everything, start_from, weights_of
from .events import CaseSpec
from .models import EARLY_STOPPING, OTHER_SHAPES, trained_model_of
from .observing import is_multivariate
from .outcomes import Differs, message_of
from .saving import load, save
from .script import Script, cut_of, one_process
from .session import Session

# A validation loss is a sum over series, and the ranks may add in another order.
LOSS_TOLERANCE = 1e-6
# Stages whose training is another than that of the others
TRAINED_OTHERWISE = ("ray-search", "single-series", "cut-files", "several-tasks", "on-dbfs")


def run(case: CaseSpec, session: Session) -> None:
    """Runs the script of a case to its stage. Raises Differs where that does not end as it does in one process."""
    stage = STAGES[case.stage]
    try:
        script = script_of(case, session)
        try:
            stage(script)
        finally:
            if stage is not fit_again:  # what follows the training is trained too, but is not what the evidence is of
                script.restore_evidence()
    except Exception as error:
        if case.patch is None:  # else it is known that one process is not refused
            evidence = replace(session.observation.evidence)
            is_refused_alone = message_of(error) == refusal_alone(case, session)
            session.observation.evidence = replace(evidence, refused_alone=is_refused_alone)
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
    script.restore_evidence()
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
        training_stages.stop_early(script)


def compare_losses(script: Script) -> None:
    """The validation losses of unchanged weights."""
    known = inspect.signature(type(trained_model_of(script.forecaster)).__init__).parameters
    options = {"val_check_steps": 1} if "val_check_steps" in known else {}

    def losses(trainer: Callable[[], dict[str, Any]]) -> list[float]:
        forecaster = script.still(trainer, **options)
        script.evidence_now.validated = ()
        script.fit(forecaster, is_watched=trainer != script.alone)
        return list(script.evidence_now.validated)

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
        recorded = script.evidence_now.answers
        try:
            script.compare(found, due)
        except Differs:
            if cross_validated(script, script.alone, 2, options).equals(due):
                raise
            # It draws samples, of a stream that the training has left elsewhere: rows and their order are compared
            script.evidence_now.answers = recorded
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
    """`fit` once more. The evidence is of the second fit."""
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
    "no-batch": training_stages.no_batch,
    "strategy-object": training_stages.strategy_object,
    "own-callbacks": training_stages.own_callbacks,
    "failing-rank": training_stages.failing_rank,
    "trajectories": training_stages.trajectories,
    "several-threads": training_stages.several_threads,
    "one-series": training_stages.one_series,
    "one-order": training_stages.one_order,
    "fewer-devices": training_stages.fewer_devices,
    "refit": fit_again,
}


def compare_with_one_process(script: Script, asked: Callable[[Any], Any]) -> None:
    """Raises Differs where the ranks' answer is not that of one process."""
    seed_everything()
    found = asked(script.forecaster)
    seed_everything()
    with one_process(script.forecaster, script.spec) as forecaster:
        script.compare(found, asked(forecaster))
