"""A plain fit, and the forecasts of what it has trained. What is observed and predicted is in the session."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from . import on_spark
from .comparing import FitEnd, compared, seed_everything, start_from, weights_of
from .data import Data, data_of, n_series_of
from .events import CaseSpec, FitCompared
from .frames import record_of
from .models import EARLY_STOPPING, SMALL_SIZES, model_of, trained_model_of
from .session import Session
from .spawned import trained
from .trainer import arguments_less_processes, trainer_arguments


def train(case: CaseSpec, session: Session) -> None:
    """Trains the model of a case, and compares its end and its forecasts with those of the case that it is like.

    Raises whatever goes wrong, and RuntimeError where the case is to begin like one that did not train.
    """
    seed_everything()
    trainer = partial(trainer_arguments, case, session)
    model = model_of(case, session.spec.max_steps, trainer, n_series_of(case))
    is_made = any(True for _ in getattr(model, "parameters", list)())  # a search makes its models when it is trained
    if case.like is not None:
        if case.like not in session.fitted:
            raise RuntimeError(f"nothing to compare with: {case.like} did not train")
        if is_made:
            start_from(model, session.fitted[case.like].first or {})
    first = weights_of(model) if case.forecast and is_made else None
    data = data_of(case, model.h)
    forecaster = session.package.NeuralForecast(models=[model], freq=data.freq)
    fit(forecaster, data, case, session)
    if case.forecast is None:
        return
    forecasts = predict(forecaster, data, case, session)
    losses, last = session.observation.training.losses, trained_model_of(forecaster)
    frozen = tuple(name for name, parameter in last.named_parameters() if not parameter.requires_grad)
    session.fitted[case.id] = FitEnd(first, weights_of(last), frozen, losses, forecasts)
    if case.like is not None:
        comparison = compared(session.fitted[case.id], session.fitted[case.like])
        session.found.append(FitCompared(session.number, comparison))


def fit(forecaster: Any, data: Data, case: CaseSpec, session: Session) -> None:
    """Trains. Lightning shards the series among the ranks, which therefore have something to agree on."""
    # neuralforecast 1.0.0 knows no such argument.
    arguments = {} if data.static is None else {"static_df": data.static}
    if EARLY_STOPPING in case.options:  # which insists on something to validate
        arguments["val_size"] = SMALL_SIZES["h"]
    seed_everything()
    with trained(forecaster, session.spec, session.observation, case.strategy != "single-process"):
        if is_on_spark(case, session):
            session.spark.fit(forecaster, case, data.past, arguments.pop("static_df", None), **arguments)
        else:
            forecaster.fit(df=data.past, **arguments)


def is_on_spark(case: CaseSpec, session: Session) -> bool:
    """Whether it is trained on Spark."""
    return on_spark.is_on_spark(session.spec) and case.strategy != "single-process"


def predict(forecaster: Any, data: Data, case: CaseSpec, session: Session) -> Any:
    """What `NeuralForecast.predict` gives, as an array: a row a series and point in time, a column an output.

    Called as a user does, but where the source lacks a patch that this needs: there, by this process alone.
    """
    model = trained_model_of(forecaster)
    if case.forecast == "alone":
        model.trainer_kwargs = arguments_less_processes(model.trainer_kwargs, session.spec)
    future = {"futr_df": data.future} if "future" in case.exogenous else {}
    if is_on_spark(case, session) and case.forecast == "together":
        frame, _ = session.spark.predict(forecaster, case, **future)
    elif is_on_spark(case, session):
        frame = forecaster.predict(df=data.past, static_df=data.static, **future)
    else:
        frame = forecaster.predict(**future)
    columns = [name for name in frame.columns if name not in ("unique_id", "ds")]
    forecasts = frame[columns].to_numpy(dtype="float64")
    expected = (len(data.future), len(model.loss.output_names))
    if forecasts.shape != expected:
        raise ValueError(f"the forecasts have the shape {forecasts.shape} instead of {expected}")
    if not all(map(math.isfinite, forecasts.flat)):
        raise ValueError("not all forecasts are finite numbers")
    session.frames.append(record_of(frame))
    return forecasts
