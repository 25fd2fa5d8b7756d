"""A fit, by whichever processes, and the forecasts of the trained model; both are recorded in the session."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from .comparing import FitEnd, compare_fits, seed_everything, start_from, weights_of
from .data import HORIZON, Data, data_of, month_end, n_series_of
from .events import CaseSpec, Training, TrainSpec, decode
from .frames import record_of
from .models import EARLY_STOPPING, make_model, trained_model_of
from .observing import REPORTS_VARIABLE, digest_of, digest_of_tensors
from .outcomes import Differs
from .session import Session
from .trainer import single_process_arguments, trainer_arguments, without_distribution


def train(case: CaseSpec, session: Session) -> None:
    """Trains the model of a case, and compares the result and its forecasts with those of the case in `like`.

    Raises whatever goes wrong, and RuntimeError if the case in `like` did not train.
    """
    seed_everything()
    trainer = partial(trainer_arguments, case, session)
    model = make_model(case, session.spec.max_steps, trainer, n_series_of(case))
    is_made = any(True for _ in getattr(model, "parameters", list)())  # a search makes its models when it is trained
    if case.like is not None:
        if case.like not in session.fitted:
            raise RuntimeError(f"nothing to compare with: {case.like} did not train")
        if is_made:
            start_from(model, session.fitted[case.like].first or {})
    first = weights_of(model) if case.forecast and is_made else None
    data = data_of(case, model.h)
    forecaster = new_forecaster(model)
    options: dict[str, Any] = {}
    if data.static is not None:  # neuralforecast 1.0.0 has no such argument
        options["static_df"] = data.static
    if EARLY_STOPPING in case.options:  # requires something to validate
        options["val_size"] = HORIZON
    fit(forecaster, data.past, case, session, is_watched=case.strategy != "single-process", **options)
    if case.forecast is None:
        return
    forecasts = predict(forecaster, data, case, session)
    losses, last = session.observation.training.losses, trained_model_of(forecaster)
    frozen = tuple(name for name, parameter in last.named_parameters() if not parameter.requires_grad)
    session.fitted[case.id] = FitEnd(first, weights_of(last), frozen, losses, forecasts)
    if case.like is not None:
        session.events.append(compare_fits(session.number, session.fitted[case.id], session.fitted[case.like]))


def new_forecaster(model: Any) -> Any:
    """The forecaster of the imported neuralforecast with this model, untrained."""
    from neuralforecast import NeuralForecast

    return NeuralForecast(models=[model], freq=month_end())


def fit(forecaster: Any, past: Any, case: CaseSpec, session: Session, is_watched: bool, **options: Any) -> None:
    """Trains on a frame; afterwards the session has the observed training, whichever process observed it.

    A fit that is not `is_watched` is one by this process alone, or without the callback that observes. Raises Differs
    if the processes of the fit ended with other weights than this process has now.
    """
    spec, observation = session.spec, session.observation
    observation.of_ranks = []
    is_by_other_processes = is_watched and spec.reporting < spec.world_size
    seed_everything()
    with collect_trainings(session) if is_by_other_processes else nullcontext():
        if is_watched and spec.is_on_spark:
            session.spark.fit(forecaster, case, past, **options)
        else:
            forecaster.fit(df=past, **options)
    model = trained_model_of(forecaster)
    weights = digest_of(model)
    observation.training.weights, observation.training.buffers = weights, digest_of_tensors(model.buffers())
    if is_by_other_processes:
        if len(observation.of_ranks) != spec.world_size:
            raise Differs(f"{len(observation.of_ranks)} of {spec.world_size} processes have trained")
        if any(training.weights != weights for training in observation.of_ranks):
            raise Differs(f"the weights that came back are not those with which all {spec.world_size} processes ended")


@contextmanager
def collect_trainings(session: Session) -> Iterator[None]:
    """Around a fit by processes that exit with it, as of `ddp_spawn` and in notebooks: reads what they observed."""
    observation, folder = session.observation, tempfile.mkdtemp(dir=session.spec.out)
    os.environ[REPORTS_VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[REPORTS_VARIABLE]
        observation.of_ranks = read_trainings(folder)
        shutil.rmtree(folder)
        if observation.of_ranks:
            observation.training = merge_trainings(observation.training, observation.of_ranks)


def read_trainings(folder: str) -> list[Training]:
    """What the processes of a fit have observed, by rank."""
    trainings = []
    names = [name for name in os.listdir(folder) if name.endswith(".json")]
    for name in sorted(names, key=lambda name: (len(name), name)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            trainings.append(decode(Training, json.load(file)))
    return trainings


def merge_trainings(before: Training, of_ranks: list[Training]) -> Training:
    """An earlier training continued by a fit: by what rank 0 observed of it, and the unused parameters of all ranks."""
    first = of_ranks[0]
    return replace(
        first,
        unused_by_torch=before.unused_by_torch,
        losses=before.losses + first.losses,
        validated=before.validated + first.validated,
        unused=tuple(dict.fromkeys((*before.unused, *(name for each in of_ranks for name in each.unused)))),
    )


def predict(forecaster: Any, data: Data, case: CaseSpec, session: Session) -> Any:
    """The forecasts of `NeuralForecast.predict` as an array: a row per series and time, a column per output.

    All ranks predict, as in a user's script, unless the source lacks a patch for that: then this process does alone.
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
def one_process(forecaster: Any, spec: TrainSpec) -> Iterator[None]:
    """Meanwhile, the forecaster works in this process alone."""
    model = trained_model_of(forecaster)
    arguments = without_distribution(model.trainer_kwargs, single_process_arguments(spec.accelerator))
    with mock.patch.object(model, "trainer_kwargs", arguments):
        yield
