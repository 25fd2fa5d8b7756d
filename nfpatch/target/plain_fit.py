"""A fit, and the forecasts of what it has trained. What is observed and predicted is in the session."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from .comparing import FitEnd, compared, seed_everything, start_from, weights_of
from .data import Data, data_of, n_series_of
from .events import CaseSpec, FitCompared, TrainSpec
from .frames import record_of
from .models import EARLY_STOPPING, SMALL_SIZES, model_of, trained_model_of
from .session import Session
from .spawned import trained
from .trainer import arguments_alone, arguments_less_processes, trainer_arguments


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
    # early stopping insists on something to validate
    options = {"val_size": SMALL_SIZES["h"]} if EARLY_STOPPING in case.options else {}
    fit(forecaster, data, case, session, is_watched=case.strategy != "single-process", **options)
    if case.forecast is None:
        return
    forecasts = predict(forecaster, data, case, session)
    losses, last = session.observation.training.losses, trained_model_of(forecaster)
    frozen = tuple(name for name, parameter in last.named_parameters() if not parameter.requires_grad)
    session.fitted[case.id] = FitEnd(first, weights_of(last), frozen, losses, forecasts)
    if case.like is not None:
        comparison = compared(session.fitted[case.id], session.fitted[case.like])
        session.found.append(FitCompared(session.number, comparison))


def fit(forecaster: Any, data: Data, case: CaseSpec, session: Session, is_watched: bool, **options: Any) -> None:
    """Trains. Lightning shards the series among the ranks, which therefore have something to agree on.

    Not `is_watched` is one by this process alone, or without the callback that observes.
    """
    # neuralforecast 1.0.0 knows no such argument.
    static = {} if data.static is None else {"static_df": data.static}
    seed_everything()
    with trained(forecaster, session.spec, session.observation, is_watched):
        if is_watched and session.spec.is_on_spark:
            session.spark.fit(forecaster, case, data.past, data.static, **options)
        else:
            forecaster.fit(df=data.past, **static, **options)


def predict(forecaster: Any, data: Data, case: CaseSpec, session: Session) -> Any:
    """What `NeuralForecast.predict` gives, as an array: a row a series and point in time, a column an output.

    Called as a user does, but where the source lacks a patch that this needs: there, by this process alone.
    """
    future = {"futr_df": data.future} if "future" in case.exogenous else {}
    if case.forecast == "together" and session.spec.is_on_spark:
        frame, _ = session.spark.predict(forecaster, case, **future)
    elif case.forecast == "together":
        frame = forecaster.predict(**future)
    else:
        given = {"df": data.past, "static_df": data.static} if session.spec.is_on_spark else {}
        with one_process(forecaster, session.spec):
            frame = forecaster.predict(**given, **future)
    columns = [name for name in frame.columns if name not in ("unique_id", "ds")]
    forecasts = frame[columns].to_numpy(dtype="float64")
    expected = (len(data.future), len(trained_model_of(forecaster).loss.output_names))
    if forecasts.shape != expected:
        raise ValueError(f"the forecasts have the shape {forecasts.shape} instead of {expected}")
    if not all(map(math.isfinite, forecasts.flat)):
        raise ValueError("not all forecasts are finite numbers")
    session.frames.append(record_of(frame))
    return forecasts


@contextmanager
def one_process(forecaster: Any, spec: TrainSpec) -> Iterator[Any]:
    """The forecaster, for a while as if it had been trained and asked in this process alone."""
    model = trained_model_of(forecaster)
    alone = arguments_less_processes(model.trainer_kwargs, arguments_alone(spec.accelerator))
    with mock.patch.object(model, "trainer_kwargs", alone):
        yield forecaster
