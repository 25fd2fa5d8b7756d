"""How a case failed: its result differs from that of one process, or it raised an exception, and where."""

from __future__ import annotations

import os
import re
import sys
import traceback

from .events import CallRaised
from .observing import parameters_named_by_torch

# The frames of this package are left out: it only calls what fails.
OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
# How much of an exception is recorded of a case
LAST_FRAMES = 3
LONGEST_MESSAGE = 1000


class Differs(Exception):
    """The result differs from that of one process; the text says how."""


class FailedElsewhere(Exception):
    """Another process raised an error; the text is its type and message."""


def describe_error(
    error: BaseException, number: int, longest: int = LONGEST_MESSAGE, last_frames: int = LAST_FRAMES
) -> CallRaised:
    """The record of an exception in the call with this number, with the last frames of this process."""
    trace = None if isinstance(error, FailedElsewhere) else error.__traceback__
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(OWN_FOLDER)]
    return CallRaised(
        number,
        message_of(error)[:longest],
        unused=parameters_named_by_torch(str(error)),
        places=tuple(f"{in_package(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames[-last_frames:]),
        by_neuralforecast=bool(frames) and is_deliberate(frames[-1]) and not isinstance(error, ImportError),
    )


def message_of(error: BaseException) -> str:
    """An exception in one line: its type and message; of one from another process, the type and message there."""
    if type(error).__name__ == "ProcessRaisedException":  # of torch.multiprocessing, with the traceback there
        text = str(error)
        errors = list(re.finditer(r"^[\w.]*(?:Error|Exception)\b", text, re.MULTILINE))
        return " ".join(text[errors[-1].start() if errors else 0 :].split())
    text = " ".join(str(error).split())
    return text if isinstance(error, FailedElsewhere) else f"{type(error).__name__}: {text}"


def in_package(file: str) -> str:
    """A file of neuralforecast without the folder of its install; any other as it is."""
    package = getattr(sys.modules.get("neuralforecast"), "__file__", None)
    if package is None or not file.startswith(os.path.dirname(package) + os.sep):  # None if it could not be imported
        return file
    return os.path.relpath(file, os.path.dirname(os.path.dirname(package)))


def is_deliberate(frame: traceback.FrameSummary) -> bool:
    """Whether a `raise` or `assert` of neuralforecast raised an exception here."""
    is_of_package = in_package(frame.filename) != frame.filename
    return is_of_package and (frame.line or "").partition(" ")[0] in ("raise", "assert")
