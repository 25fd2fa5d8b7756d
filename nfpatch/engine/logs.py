"""What the processes of a run have written: events, printed output, and stacks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from nfpatch.target import ENTRY
from nfpatch.target.events import Entry

# One frame of faulthandler's dump, which starts at the innermost.
_FRAME = re.compile(r'File "(.+)", line (\d+) in (\S+)')
_DUMP_HEADING = "(most recent call first):"
# The folder that a package lies in
_PACKAGES = re.compile(r".*(site-packages/|/nfpatch-run-[^/]*/source/)")


def entries_in(path: Path, start: int) -> tuple[list[Entry], int]:
    """The events in the complete lines of a file from byte `start` on, and the byte at which the next line begins.

    `target/event_file.py` writes such files. Raises WrongRecord if a line is no event.
    """
    with path.open("rb") as file:
        file.seek(start)
        complete, newline, _ = file.read().rpartition(b"\n")
    return [Entry.from_json(json.loads(line)) for line in complete.splitlines()], start + len(complete) + len(newline)


def frames_of_dump(text: str) -> list[tuple[str, str, str]]:
    """File, line and function of each frame in faulthandler's last dump, if there is one, the innermost first."""
    _, heading, dump = text.rpartition(_DUMP_HEADING)
    return _FRAME.findall(dump) if heading else []


def tail_of(log: Path, lines: int) -> str:
    """The last lines of a log file that are not blank; of a progress bar only what was visible last."""
    shown = (line.rstrip().rpartition("\r")[2] for line in text_of(log).split("\n"))
    return "\n".join([line for line in shown if line.strip()][-lines:])


def text_of(log: Path) -> str:
    """The text of a file that another process may be writing; empty if it does not exist."""
    return log.read_bytes().decode("utf-8", errors="replace") if log.exists() else ""


def place_of(stack: str) -> str:
    """Where a process is according to its stack: the collective or the innermost frame, and the caller of that."""
    frames = frames_of_dump(stack)
    if not frames:
        return ""
    places = [f"{without_site_packages(file)}:{line} in {name}" for file, line, name in frames]
    collectives = [name for file, _, name in frames if "/torch/distributed/" in file and not name.startswith("_")]
    inner = next(iter(collectives), places[0])
    outer = next((place for place, (file, _, _) in zip(places, frames) if is_relevant(file)), inner)
    return inner if outer == inner else f"{inner}, called at {outer}"


def relevant_place(places: Sequence[str]) -> str:
    """The innermost frame of an exception in neuralforecast or in the script's own code; else the innermost one."""
    telling = [place for place in places if is_relevant(place)] or [*places]
    return without_site_packages(telling[-1]) if telling else ""


def without_site_packages(place: str) -> str:
    """A place without the folder of its package: site-packages, or nfpatch's overlay."""
    return _PACKAGES.sub("", place)


def is_relevant(file: str) -> bool:
    """Whether a file is part of neuralforecast or of the user's own code."""
    is_own = file.startswith(str(ENTRY.parent))
    of_others = any(part in file for part in ("/site-packages/", "/dist-packages/", "/lib/python"))
    return "/neuralforecast/" in file or not (is_own or of_others)
