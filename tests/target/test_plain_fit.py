"""Forecasts of a plain fit prove something if there are as many as must be, and all are numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from nfpatch.target.data import Data
from nfpatch.target.events import CaseSpec, TrainSpec
from nfpatch.target.plain_fit import predict
from nfpatch.target.session import Session

SPEC = TrainSpec({"": None}, (), "torchrun", "cpu", 2, 2, 2, 3, False, 1.0, 2.0, "out")
CASE = CaseSpec("a", "NHITS", "MAE", forecast="together")


class Model:
    loss = SimpleNamespace(output_names=[""])


def predicted(session: Session, *values: float) -> Any:
    """The forecasts of two points in time, where the forecaster gives these values."""
    frame = pandas.DataFrame({"unique_id": "a", "ds": range(len(values)), "NHITS": values})
    forecaster = SimpleNamespace(models=[Model()], predict=lambda: frame)
    return predict(forecaster, Data(None, frame.iloc[:0].reindex(range(2)), None), CASE, session)


def test_forecasts_are_recorded_with_their_shape() -> None:
    session = Session(SPEC, None, "gloo")  # type: ignore[arg-type]
    assert predicted(session, 1.0, 2.0).tolist() == [[1.0], [2.0]]
    assert [frame.shape for frame in session.frames] == [(2, 1)]


@pytest.mark.parametrize("values", [(1.0,), (1.0, float("nan")), (1.0, float("inf"))])
def test_missing_or_non_finite_forecasts_are_an_error(values: tuple[float, ...]) -> None:
    session = Session(SPEC, None, "gloo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="forecasts"):
        predicted(session, *values)
    assert session.frames == []
