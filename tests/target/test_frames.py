"""Two frames of forecasts are the same only where rows, their order and every bit of a number are."""

from __future__ import annotations

import hashlib
import math
from types import SimpleNamespace
from typing import Any

import numpy
import pandas
import pytest

from nfpatch.target.events import Frame
from nfpatch.target.frames import as_pandas, described, difference_of, digest_of_frame, record_of

DAYS = pandas.to_datetime(["2020-01-01", "2020-01-02"])
NAN = math.nan
COLUMNS = "unique_id, ds, cutoff, NHITS, TFT"
BIT_OFF = numpy.nextafter(0.1, 1.0)


def forecasts(**columns: Any) -> pandas.DataFrame:
    """What two models forecast of two days of two series, back in time, with these columns instead or beside."""
    own = {
        "unique_id": ["A", "A", "B", "B"],
        "ds": DAYS.append(DAYS),
        "cutoff": DAYS[0],
        "NHITS": [0.1, 0.2, 0.3, NAN],
        "TFT": numpy.array([1, 2, 3, 4], dtype="float32"),
    }
    return pandas.DataFrame({**own, **columns})


class Polars:
    """A frame of another library, as far as it matters here."""

    columns = ("unique_id", "ds", "cutoff", "NHITS", "TFT")

    def to_pandas(self) -> pandas.DataFrame:
        return forecasts()


class PandasOnSpark(pandas.DataFrame):
    """A frame that does as pandas does, and could be brought to this machine as well."""

    def to_pandas(self) -> pandas.DataFrame:
        raise MemoryError


def test_a_frame_is_told_by_its_size_its_series_its_missing_forecasts_and_its_digest() -> None:
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


def test_a_frame_without_ids_is_told_without_a_number_of_series() -> None:
    frame = pandas.DataFrame({7: [0.5, NAN, 0.5]})

    assert record_of(frame) == Frame(
        rows=3,
        columns=("7",),
        ids=None,
        nan=1,
        digest=digest_of_frame(frame),
    )


@pytest.mark.parametrize("frame", [Polars(), forecasts().set_index("unique_id")], ids=["polars", "ids as index"])
def test_one_frame_is_told_alike_in_whatever_form_it_comes(frame: Any) -> None:
    assert described(frame) == described(forecasts())


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
def test_a_frame_that_is_as_pandas_has_it_stays_the_same_object(frame: pandas.DataFrame) -> None:
    assert as_pandas(frame) is frame


@pytest.mark.parametrize(
    "thing",
    [None, 1.0, "forecasts", {"columns": []}, numpy.zeros((2, 2)), forecasts()["NHITS"], SimpleNamespace(columns=[])],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_no_frame_is_told_as_nothing(thing: Any) -> None:
    assert described(thing) == ()


def test_the_digest_is_over_all_that_is_in_a_frame_each_number_to_its_last_bit() -> None:
    frame = pandas.DataFrame({"unique_id": ["A", "B"], "ds": DAYS, "NHITS": [0.1, 1e-20]})
    text = ",unique_id,ds,NHITS\n0,A,2020-01-01,0.10000000000000001\n1,B,2020-01-02,9.9999999999999995e-21\n"

    assert digest_of_frame(frame) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("absent", [[], ["cutoff"]], ids=["back in time", "ahead"])
def test_frames_that_are_bit_equal_do_not_differ(absent: list[str]) -> None:
    assert difference_of(forecasts().drop(columns=absent), forecasts().drop(columns=absent)) is None


def test_it_is_no_difference_whether_the_ids_are_a_column_or_the_index() -> None:
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
def test_it_is_told_in_what_the_frame_of_several_processes_differs(found: pandas.DataFrame, words: str) -> None:
    assert difference_of(found, forecasts()) == words
