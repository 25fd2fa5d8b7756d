"""How a case ended: it differs from one process, or raised an exception, and where."""

from __future__ import annotations

import os
import re
import sys
import traceback

from .events import CallRaised
from .observing import parameters_named_by_torch

# The frames of this package are left out: it only calls what goes wrong.
OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
# How much of an exception is reported.
LAST_FRAMES = 3
LONGEST_MESSAGE = 1000


class Differs(Exception):
    """What went through, but did not end as it does in one process; the text says in what."""


class FailedElsewhere(Exception):
    """What another process ended with; the text is the type and the words of its error."""


def raised_by(
    error: BaseException, number: int, longest: int = LONGEST_MESSAGE, last_frames: int = LAST_FRAMES
) -> CallRaised:
    """The record of what ended the call of this number, with the last frames."""
    frames = frames_of(error)
    by_neuralforecast = bool(frames) and is_refusal(frames[-1]) and not isinstance(error, ImportError)
    places = tuple(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-last_frames:])
    unused = parameters_named_by_torch(str(error))
    return CallRaised(number, message_of(error)[:longest], unused, places, by_neuralforecast)


def frames_of(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an exception, the innermost last, without this package's; none of what another process has sent."""
    trace = None if isinstance(error, FailedElsewhere) else error.__traceback__
    return [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(OWN_FOLDER)]


def message_of(error: BaseException) -> str:
    """An exception in one line: its type and words, of one that another process has sent, the type and words there."""
    if type(error).__name__ == "ProcessRaisedException":
        return " ".join(last_error_in(str(error)).split())
    words = " ".join(str(error).split())
    return words if isinstance(error, FailedElsewhere) else f"{type(error).__name__}: {words}"


def last_error_in(text: str) -> str:
    """The last error of a traceback that another process has sent, as `torch.multiprocessing` raises it."""
    found = list(re.finditer(r"^[\w.]*(?:Error|Exception)\b", text, re.MULTILINE))
    return text[found[-1].start() :] if found else text


def is_refusal(frame: traceback.FrameSummary) -> bool:
    """Whether an exception was raised here by a statement of neuralforecast that is there to raise it."""
    file = getattr(sys.modules.get("neuralforecast"), "__file__", None)
    if file is None:  # it could not be imported
        return False
    statement = (frame.line or "").partition(" ")[0]
    return frame.filename.startswith(os.path.dirname(file) + os.sep) and statement in ("raise", "assert")
