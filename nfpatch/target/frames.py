"""Frames of forecasts: what is recorded of them, and how two of them differ."""

from __future__ import annotations

import hashlib
from typing import Any

from .events import Frame

KEYS = ("unique_id", "ds", "cutoff")


def records_of(result: Any) -> tuple[Frame, ...]:
    """The record of a result that is a frame; none of any other."""
    frame = as_pandas(result)
    return () if frame is None else (record_of(frame),)


def record_of(frame: Any) -> Frame:
    """The record of a pandas frame."""
    return Frame(
        rows=len(frame),
        columns=tuple(str(name) for name in frame.columns),
        ids=int(frame["unique_id"].nunique()) if "unique_id" in frame.columns else None,
        nan=int(frame[numbers_in(frame)].isna().to_numpy().sum()),
        digest=digest_of_frame(frame),
    )


def numbers_in(frame: Any) -> list[Any]:
    """The names of the columns with floating-point numbers."""
    return [name for name in frame.columns if frame[name].dtype.kind == "f"]


def digest_of_frame(frame: Any) -> str:
    """SHA-256 (hex) over the whole content, each number to its last bit."""
    return hashlib.sha256(frame.to_csv(float_format="%.17g").encode()).hexdigest()


def as_pandas(frame: Any) -> Any:
    """The frame as a pandas frame, with the ids in a column; None if it is no frame."""
    if hasattr(frame, "to_pandas") and not hasattr(frame, "to_csv"):
        frame = frame.to_pandas()
    if not hasattr(frame, "to_csv") or not hasattr(frame, "columns"):
        return None
    return frame if "unique_id" in frame.columns or frame.index.name != "unique_id" else frame.reset_index()


def difference_of(actual: Any, expected: Any) -> str | None:
    """How two frames of forecasts differ: in rows, their order, or any bit of a number; None if they do not."""
    import numpy

    actual, expected = as_pandas(actual), as_pandas(expected)
    if actual.shape != expected.shape or list(actual.columns) != list(expected.columns):
        sizes = [f"{len(frame)} rows of {', '.join(map(str, frame.columns))}" for frame in (actual, expected)]
        return f"{sizes[0]}, where one process gives {sizes[1]}"
    for key in [name for name in KEYS if name in expected.columns]:
        different = int((actual[key].to_numpy() != expected[key].to_numpy()).sum())
        if different:
            return f"{different} of {len(expected)} rows have another {key} than in one process"
    one, other = (frame[numbers_in(expected)].to_numpy() for frame in (actual, expected))
    missing = int((numpy.isnan(one) & ~numpy.isnan(other)).sum())
    different = int((~((one == other) | (numpy.isnan(one) & numpy.isnan(other)))).sum())
    if not different:
        return None
    words = f", {missing} of them NaN" if missing else ""
    return f"{different} of {one.size} forecasts are not those of one process{words}"
