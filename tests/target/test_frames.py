"""Two frames of forecasts are equal only if their rows, their order and every bit of the numbers are."""

from __future__ import annotations

import hashlib
import math
from types import SimpleNamespace
from typing import Any

import numpy
import pandas
import pytest

from nfpatch.target.events import Frame
from nfpatch.target.frames import as_pandas, difference_of, digest_of_frame, record_of, records_of

DAYS = pandas.to_datetime(["2020-01-01", "2020-01-02"])
NAN = math.nan
COLUMNS = "unique_id, ds, cutoff, NHITS, TFT"
BIT_OFF = numpy.nextafter(0.1, 1.0)


def forecasts(**columns: Any) -> pandas.DataFrame:
    """The forecasts of two models for two days of two series, latest first, with these columns replaced or added."""
    own = {
        "unique_id": ["A", "A", "B", "B"],
        "ds": DAYS.append(DAYS),
        "cutoff": DAYS[0],
        "NHITS": [0.1, 0.2, 0.3, NAN],
        "TFT": numpy.array([1, 2, 3, 4], dtype="float32"),
    }
    return pandas.DataFrame({**own, **columns})


class Polars:
    """A frame of another library, with the methods that are used."""

    columns = ("unique_id", "ds", "cutoff", "NHITS", "TFT")

    def to_pandas(self) -> pandas.DataFrame:
        return forecasts()


class PandasOnSpark(pandas.DataFrame):
    """A frame with the methods of pandas that can also be converted to it."""

    def to_pandas(self) -> pandas.DataFrame:
        raise MemoryError


def test_a_frame_is_described_by_size_series_missing_forecasts_and_digest() -> None:
    frame = forecasts(NHITS=[NAN, 0.2, 0.3, NAN], y=[1, 2, 3, 4], note=[None, "x", "x", "x"])

    assert record_of(frame) == Frame(
        rows=4,
        columns=(
            "unique_id",
            "ds",
            "cutoff",
            "NHITS",
            "TFT",
            "y",
            "note",
        ),
        ids=2,
        nan=2,
        digest=digest_of_frame(frame),
    )


def test_a_frame_without_ids_has_no_number_of_series() -> None:
    frame = pandas.DataFrame({7: [0.5, NAN, 0.5]})

    assert record_of(frame) == Frame(
        rows=3,
        columns=("7",),
        ids=None,
        nan=1,
        digest=digest_of_frame(frame),
    )


@pytest.mark.parametrize("frame", [Polars(), forecasts().set_index("unique_id")], ids=["polars", "ids as index"])
def test_equal_frames_of_different_types_have_the_same_description(frame: Any) -> None:
    assert records_of(frame) == records_of(forecasts())


@pytest.mark.parametrize(
    "frame",
    [
        forecasts(),
        forecasts().drop(columns="unique_id"),
        forecasts().set_index("ds"),
        forecasts().set_index("unique_id", drop=False),
        PandasOnSpark(forecasts()),
    ],
    ids=["ids as column", "no ids", "another index", "ids as both", "pandas on Spark"],
)
def test_a_plain_pandas_frame_is_not_copied(frame: pandas.DataFrame) -> None:
    assert as_pandas(frame) is frame


@pytest.mark.parametrize(
    "thing",
    [None, 1.0, "forecasts", {"columns": []}, numpy.zeros((2, 2)), forecasts()["NHITS"], SimpleNamespace(columns=[])],
    ids=lambda thing: type(thing).__name__,
)
def test_other_objects_have_no_description(thing: Any) -> None:
    assert records_of(thing) == ()


def test_the_digest_depends_on_every_bit_of_a_frame() -> None:
    frame = pandas.DataFrame({"unique_id": ["A", "B"], "ds": DAYS, "NHITS": [0.1, 1e-20]})
    text = ",unique_id,ds,NHITS\n0,A,2020-01-01,0.10000000000000001\n1,B,2020-01-02,9.9999999999999995e-21\n"

    assert digest_of_frame(frame) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("absent", [[], ["cutoff"]], ids=["back in time", "ahead"])
def test_bit_identical_frames_do_not_differ(absent: list[str]) -> None:
    assert difference_of(forecasts().drop(columns=absent), forecasts().drop(columns=absent)) is None


def test_ids_may_be_a_column_or_the_index() -> None:
    assert difference_of(forecasts().set_index("unique_id"), forecasts()) is None
    assert difference_of(forecasts(), forecasts().set_index("unique_id")) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (forecasts()[:3], f"3 rows of {COLUMNS}, where one process gives 4 rows of {COLUMNS}"),
        (
            forecasts().rename(columns={"TFT": "LSTM"}),
            f"4 rows of unique_id, ds, cutoff, NHITS, LSTM, where one process gives 4 rows of {COLUMNS}",
        ),
        (forecasts(y=1.0), f"4 rows of {COLUMNS}, y, where one process gives 4 rows of {COLUMNS}"),
        (forecasts(unique_id=["A", "A", "B", "C"]), "1 of 4 rows have another unique_id than in one process"),
        (forecasts(ds=DAYS.append(DAYS[::-1])), "2 of 4 rows have another ds than in one process"),
        (forecasts(cutoff=DAYS.append(DAYS)), "2 of 4 rows have another cutoff than in one process"),
        (forecasts()[::-1], "4 of 4 rows have another unique_id than in one process"),
        (forecasts(TFT=[1.0, 2.0, 3.0, 5.0]), "1 of 8 forecasts are not those of one process"),
        (forecasts(NHITS=[BIT_OFF, 0.2, 0.3, NAN]), "1 of 8 forecasts are not those of one process"),
        (forecasts(NHITS=[0.1, NAN, NAN, NAN]), "2 of 8 forecasts are not those of one process, 2 of them NaN"),
        (forecasts(NHITS=[0.5, 0.2, NAN, 0.4]), "3 of 8 forecasts are not those of one process, 1 of them NaN"),
        (forecasts(NHITS=[0.1, 0.2, 0.3, 0.4]), "1 of 8 forecasts are not those of one process"),
    ],
    ids=[
        *("fewer rows", "another model", "one more column"),
        *("another id", "another order of days", "another window", "backwards"),
        *("another number", "one bit off", "NaN in one", "NaN in both", "NaN where one process has it only"),
    ],
)
def test_a_difference_of_frames_is_described(found: pandas.DataFrame, words: str) -> None:
    assert difference_of(found, forecasts()) == words
