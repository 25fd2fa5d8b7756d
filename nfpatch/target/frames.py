"""Frames of forecasts: what is recorded of them, and how two of them differ."""

from __future__ import annotations

import hashlib
from typing import Any

from .events import Frame

KEYS = ("unique_id", "ds", "cutoff")


def described(frame: Any) -> tuple[Frame, ...]:
    """The record of a frame; of what is no frame, none."""
    found = as_pandas(frame)
    return () if found is None else (record_of(found),)


def record_of(found: Any) -> Frame:
    """The record of a frame of pandas."""
    numbers = [name for name in found.columns if found[name].dtype.kind == "f"]
    return Frame(
        rows=len(found),
        columns=tuple(str(name) for name in found.columns),
        ids=int(found["unique_id"].nunique()) if "unique_id" in found.columns else None,
        nan=int(found[numbers].isna().to_numpy().sum()),
        digest=digest_of_frame(found),
    )


def digest_of_frame(frame: Any) -> str:
    """SHA-256 (hex) over all that is in it, each number to its last bit."""
    return hashlib.sha256(frame.to_csv(float_format="%.17g").encode()).hexdigest()


def as_pandas(frame: Any) -> Any:
    """The frame as pandas has it, with the ids in a column; None for what is none."""
    if hasattr(frame, "to_pandas") and not hasattr(frame, "to_csv"):
        frame = frame.to_pandas()
    if not hasattr(frame, "to_csv") or not hasattr(frame, "columns"):
        return None
    return frame if "unique_id" in frame.columns or frame.index.name != "unique_id" else frame.reset_index()


def difference_of(found: Any, expected: Any) -> str | None:
    """In what two frames of forecasts differ: in rows, their order, or any bit of a number; None if in nothing."""
    import numpy

    found, expected = (frame if "unique_id" in frame.columns else frame.reset_index() for frame in (found, expected))
    if found.shape != expected.shape or list(found.columns) != list(expected.columns):
        frames = (found, expected)
        own, reference = (f"{len(frame)} rows of {', '.join(map(str, frame.columns))}" for frame in frames)
        return f"{own}, where one process gives {reference}"
    for key in (name for name in KEYS if name in expected.columns):
        other = int((found[key].to_numpy() != expected[key].to_numpy()).sum())
        if other:
            return f"{other} of {len(expected)} rows have another {key} than in one process"
    numbers = [name for name in expected.columns if expected[name].dtype.kind == "f"]
    one, other = (frame[numbers].to_numpy() for frame in (found, expected))
    missing = int((numpy.isnan(one) & ~numpy.isnan(other)).sum())
    unequal = int((~((one == other) | (numpy.isnan(one) & numpy.isnan(other)))).sum())
    if not unequal:
        return None
    words = f", {missing} of them NaN" if missing else ""
    return f"{unequal} of {one.size} forecasts are not those of one process{words}"
