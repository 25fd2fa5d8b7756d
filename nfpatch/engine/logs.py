"""What the processes of a run have written so far: event files, printed output, and stacks."""

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
    """The events that a file has from byte `start` on, as far as their lines are whole, and where the next one begins.

    `EventFile` of `target/events.py` writes such files. Raises WrongRecord where a line is no event.
    """
    with path.open("rb") as file:
        file.seek(start)
        complete, newline, _ = file.read().rpartition(b"\n")
    return [Entry.from_json(json.loads(line)) for line in complete.splitlines()], start + len(complete) + len(newline)


def frames_of_dump(text: str) -> list[tuple[str, str, str]]:
    """File, line and function of each frame in faulthandler's last dump, the innermost first; none without a dump."""
    _, heading, dump = text.rpartition(_DUMP_HEADING)
    return _FRAME.findall(dump) if heading else []


def tail_of(log: Path, lines: int) -> str:
    """The last lines of a log file that are not blank; empty where there is no such file."""
    shown = (line.rstrip().rpartition("\r")[2] for line in text_of(log).split("\n"))
    return "\n".join([line for line in shown if line.strip()][-lines:])


def text_of(log: Path) -> str:
    """The text of a file that another process may be writing; empty where there is none."""
    return log.read_bytes().decode("utf-8", errors="replace") if log.exists() else ""


def place_of(stack: str) -> str:
    """Where a process is by its stack, innermost frame first: the collective that it waits in, and what called it."""
    frames = frames_of_dump(stack)
    if not frames:
        return ""
    collective = [name for file, _, name in frames if "/torch/distributed/" in file and not name.startswith("_")]
    outer = next(
        (f"{without_site_packages(file)}:{line} in {name}" for file, line, name in frames if is_telling(file)), ""
    )
    if collective:
        return collective[0] + (f", called at {outer}" if outer else "")
    file, line, name = frames[0]
    inner = f"{without_site_packages(file)}:{line} in {name}"
    return inner if not outer or outer == inner else f"{inner}, called at {outer}"


def telling_place(places: Sequence[str]) -> str:
    """The innermost of the frames of an exception that is neuralforecast's or the script's own; else the innermost."""
    telling = [place for place in places if is_telling(place)] or [*places]
    return without_site_packages(telling[-1]) if telling else ""


def without_site_packages(place: str) -> str:
    """A place without the site-packages folder, or the overlay of nfpatch, that it is in."""
    return _PACKAGES.sub("", place)


def is_telling(file: str) -> bool:
    """Whether a frame of this file tells a user where a process is: neuralforecast's, or the script's own."""
    is_own = file.startswith(str(ENTRY.parent))
    of_others = any(part in file for part in ("/site-packages/", "/dist-packages/", "/lib/python"))
    return "/neuralforecast/" in file or not (is_own or of_others)
