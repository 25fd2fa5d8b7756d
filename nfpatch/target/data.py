"""The data: the air passengers panel of neuralforecast, two series, cut where the forecasts begin."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from .events import CaseSpec
from .source import numbers_of

# By the kind of features: the option that takes them, the column, and the column that is added where there are
# "categorical" features as well.
EXOGENOUS_COLUMNS = {
    "static": ("stat_exog_list", "airline1", "airline2"),
    "historic": ("hist_exog_list", "y_[lag12]", "quarter"),
    "future": ("futr_exog_list", "trend", "month"),
}
N_SERIES = 2  # of the panel
LENGTH = 143  # points in time of a series of `levelled_data`
CARDINALITIES = {"airline2": 2, "quarter": 4, "month": 12}


@dataclass(frozen=True)
class Data:
    """Frames as `NeuralForecast` takes them; `static` is None where the case has no static features."""

    past: Any  # what is trained on: each series but for its last points in time, which are
    future: Any  # what is forecast
    static: Any
    freq: str


def data_of(case: CaseSpec, horizon: int) -> Data:
    """The data of a case that forecasts so many points in time."""
    utils = importlib.import_module("neuralforecast.utils")
    by_series = panel_of(case, utils).groupby("unique_id")
    return Data(
        past=by_series.head(-horizon).reset_index(drop=True),
        future=by_series.tail(horizon).reset_index(drop=True),
        static=utils.AirPassengersStatic if "static" in case.exogenous else None,
        freq=freq_of(),
    )


def n_series_of(case: CaseSpec) -> int:
    """How many series there are for a case; HINT has their total as well."""
    return N_SERIES + int(case.model == "HINT")


def freq_of() -> str:
    """The end of a month, as pandas calls it, which has dropped the alias "M" in its version 3."""
    import pandas

    return "M" if numbers_of(pandas.__version__) < (3,) else "ME"


def levelled_data(horizon: int, n_series: int, cut: int) -> Data:
    """Series of levels far apart, each by `cut` points in time shorter at its beginning than the one before."""
    import pandas

    utils = importlib.import_module("neuralforecast.utils")
    panel = utils.AirPassengersPanel[["unique_id", "ds", "y"]]
    # without its first point in time there is an odd number of windows, which two ranks cannot share evenly
    first = panel[panel["unique_id"] == panel["unique_id"].iloc[0]].iloc[1:]
    series = [
        first.assign(unique_id=f"series-{number}", y=first["y"] * 30.0**number).iloc[cut * number :]
        for number in range(n_series)
    ]
    return Data(
        past=pandas.concat([each.iloc[:-horizon] for each in series], ignore_index=True),
        future=pandas.concat([each.iloc[-horizon:] for each in series], ignore_index=True),
        static=None,
        freq=freq_of(),
    )


def panel_of(case: CaseSpec, utils: Any) -> Any:
    """The whole panel, with categorical columns where they are asked for, and its total for HINT."""
    import pandas

    panel = utils.AirPassengersPanel
    if "categorical" in case.exogenous:
        panel = panel.assign(month=panel["ds"].dt.month - 1, quarter=panel["ds"].dt.quarter - 1)
    if case.model == "HINT":
        total = panel.groupby("ds", as_index=False)["y"].sum().assign(unique_id="Airlines")
        panel = pandas.concat([total, panel[["unique_id", "ds", "y"]]], ignore_index=True)
    return panel
