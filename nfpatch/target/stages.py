"""The stages of a case: what is done with one forecaster, call by call, and what is noted of it.

Each is a function of a `Journey`. It leaves its evidence in the session's observation, and raises whatever goes wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import on_spark
from .comparing import FitEnd, compared, frozen_in, seed_everything, start_from, weights_of
from .data import Data, data_of, n_series_of
from .events import CaseSpec, TrainSpec
from .models import EARLY_STOPPING, SMALL_SIZES, model_of, trained_model_of
from .session import Session
from .spawned import trained
from .trainer import arguments_less_processes, trainer_arguments


@dataclass(frozen=True)
class Journey:
    """One case on its way through the stages, with a forecaster of one model.

    `first` are the weights from which the model starts; None where the case makes no forecasts.
    """

    case: CaseSpec
    session: Session
    data: Data
    forecaster: Any
    first: dict[str, Any] | None

    @property
    def spec(self) -> TrainSpec:
        """The specification of the launch."""
        return self.session.spec


def journey_of(case: CaseSpec, session: Session) -> Journey:
    """The journey of a case at its start.

    Raises RuntimeError where the case is to begin like one that did not train.
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
    return Journey(case, session, data, session.package.NeuralForecast(models=[model], freq=data.freq), first)


def fit(journey: Journey) -> None:
    """Trains. Lightning deals the series out to the ranks, which therefore have something to agree on."""
    # neuralforecast 1.0.0 knows no such argument.
    arguments = {} if journey.data.static is None else {"static_df": journey.data.static}
    if EARLY_STOPPING in journey.case.options:  # which insists on something to validate
        arguments["val_size"] = SMALL_SIZES["h"]
    seed_everything()
    is_watched = journey.case.strategy != "single-process"
    with trained(journey.forecaster, journey.spec, journey.session.observation, is_watched):
        if is_spark_asked(journey):
            static = arguments.pop("static_df", None)
            journey.session.spark.fit(journey.forecaster, journey.case, journey.data.past, static, **arguments)
        else:
            journey.forecaster.fit(df=journey.data.past, **arguments)


def is_spark_asked(journey: Journey) -> bool:
    """Whether it is trained on Spark."""
    return on_spark.is_on_spark(journey.spec) and journey.case.strategy != "single-process"


def predict(journey: Journey) -> Any:
    """What `NeuralForecast.predict` gives, as an array: a row a series and point in time, a column an output.

    Called as a user does, but where the source lacks a patch that this needs: there, by this process alone.
    """
    model = trained_model_of(journey.forecaster)
    if journey.case.forecast == "alone":
        model.trainer_kwargs = arguments_less_processes(model.trainer_kwargs, journey.spec)
    data = journey.data
    future = {"futr_df": data.future} if "future" in journey.case.exogenous else {}
    if is_spark_asked(journey) and journey.case.forecast == "together":
        frame, _ = journey.session.spark.predict(journey.forecaster, journey.case, **future)
    elif is_spark_asked(journey):
        frame = journey.forecaster.predict(df=data.past, static_df=data.static, **future)
    else:
        frame = journey.forecaster.predict(**future)
    columns = [name for name in frame.columns if name not in ("unique_id", "ds")]
    forecasts = frame[columns].to_numpy(dtype="float64")
    evidence = journey.session.observation.evidence
    evidence.forecast_shape = tuple(forecasts.shape)
    evidence.due_shape = (len(journey.data.future), len(model.loss.output_names))
    evidence.finite_forecasts = all(map(math.isfinite, forecasts.flat))
    return forecasts


def compare(journey: Journey, forecasts: Any) -> None:
    """Keeps the end of a journey for later ones, and holds it against that of the case that it is like."""
    case, model = journey.case, trained_model_of(journey.forecaster)
    evidence, fitted = journey.session.observation.evidence, journey.session.fitted
    fitted[case.id] = FitEnd(journey.first, weights_of(model), frozen_in(model), evidence.losses, forecasts)
    if case.like is not None:
        evidence.comparison = compared(fitted[case.id], fitted[case.like])
