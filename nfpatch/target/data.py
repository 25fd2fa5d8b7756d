"""The data: the air passengers panel of neuralforecast, with the last points in time to forecast."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from .events import CaseSpec
from .source import numbers_of

# By the kind of features: the option that takes them, the column, and a second one if the case also has "categorical"
# features.
EXOGENOUS_COLUMNS = {
    "static": ("stat_exog_list", "airline1", "airline2"),
    "historic": ("hist_exog_list", "y_[lag12]", "quarter"),
    "future": ("futr_exog_list", "trend", "month"),
}
HORIZON, INPUT_SIZE = 12, 24
LENGTH = 143  # points in time of the longest of `levelled_series`, before the horizon is cut off
CARDINALITIES = {"airline2": 2, "quarter": 4, "month": 12}


@dataclass(frozen=True)
class Data:
    """Frames for `NeuralForecast`; `static` is None if the case has no static features."""

    past: Any  # the training data: each series without its last points in time
    future: Any  # these
    static: Any


def data_of(case: CaseSpec, horizon: int) -> Data:
    """The data of a case with this horizon."""
    utils = importlib.import_module("neuralforecast.utils")
    by_series = panel_of(case, utils).groupby("unique_id")
    return Data(
        past=by_series.head(-horizon).reset_index(drop=True),
        future=by_series.tail(horizon).reset_index(drop=True),
        static=utils.AirPassengersStatic if "static" in case.exogenous else None,
    )


def n_series_of(case: CaseSpec) -> int:
    """The number of series of a case; HINT has a total besides the two of the panel."""
    return 3 if case.model == "HINT" else 2


def month_end() -> str:
    """The alias of pandas for the end of a month, which is no longer "M" in pandas 3."""
    import pandas

    return "M" if numbers_of(pandas.__version__) < (3,) else "ME"


def panel_of(case: CaseSpec, utils: Any) -> Any:
    """The whole panel, with the categorical columns of the case, and its total for HINT."""
    import pandas

    panel = utils.AirPassengersPanel
    if "categorical" in case.exogenous:
        panel = panel.assign(month=panel["ds"].dt.month - 1, quarter=panel["ds"].dt.quarter - 1)
    if case.model == "HINT":
        total = panel.groupby("ds", as_index=False)["y"].sum().assign(unique_id="Airlines")
        panel = pandas.concat([total, panel[["unique_id", "ds", "y"]]], ignore_index=True)
    return panel


def levelled_series(n_series: int, cut: int, world_size: int) -> Any:
    """Training data: series of very different levels, each starting `cut` points in time after the previous one.

    They have a number of windows that so many ranks cannot share evenly.
    """
    import pandas

    panel = importlib.import_module("neuralforecast.utils").AirPassengersPanel[["unique_id", "ds", "y"]]
    n_windows = LENGTH - HORIZON - (INPUT_SIZE + HORIZON)
    n_points = LENGTH if n_windows % world_size else LENGTH - 1
    first = panel[panel["unique_id"] == panel["unique_id"].iloc[0]].iloc[-n_points:]
    series = [
        first.assign(unique_id=f"series-{number}", y=first["y"] * 30.0**number).iloc[cut * number : -HORIZON]
        for number in range(n_series)
    ]
    return pandas.concat(series, ignore_index=True)
