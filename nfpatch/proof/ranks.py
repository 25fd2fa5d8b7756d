"""What the ranks of a launch have reported so far, read from the files they write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfpatch.proof.verdict import Fit

# One frame of faulthandler's dump, which starts at the innermost.
_FRAME = re.compile(r'File "(.+)", line (\d+) in (\S+)')
_NUMBER = re.compile(r"\d+")
_DUMP_HEADING = "(most recent call first):"


@dataclass
class Rank:
    """One process of a launch. `read` brings the rest up to date; `target/train.py` tells what it writes.

    Of a process on another node no more is known than `finished` and `done`.
    """

    number: int
    folder: Path
    pid: int | None = None
    python: str | None = None
    torch: str | None = None
    lightning: str | None = None
    gpus: int | None = None
    backend: str | None = None  # of the process group, as the ranks agreed
    imported: dict[str, str | None] = field(default_factory=dict)  # tree: the file of its neuralforecast
    started: set[str] = field(default_factory=set)  # ids of cases
    finished: dict[str, Fit] = field(default_factory=dict)  # by the id of the case
    done: bool = False
    _read: int = 0  # bytes

    def read(self) -> None:
        """Takes in the events that were written since the last call."""
        path = self.folder / f"rank-{self.number}.jsonl"
        events, self._read = events_in(path, self._read) if path.exists() else ([], self._read)
        for event in events:
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        """Takes in one event."""
        kind = event["event"]
        if kind == "hello":
            self.pid, self.python = event["pid"], event["python"]
        elif kind == "stack":
            self.torch, self.lightning, self.gpus = event["torch"], event["lightning"], event["gpus"]
        elif kind == "assembled":
            self.backend = event["backend"]
        elif kind == "imported":
            self.imported[event["tree"]] = event["file"]
        elif kind == "started":
            self.started.add(event["case"])
        elif kind == "finished":
            self.finished[event["case"]] = Fit.from_event(event)
        elif kind == "done":
            self.done = True

    def log_tail(self, lines: int) -> str:
        """The last lines that the process printed; of a progress bar, what was to be seen last."""
        return tail_of(self.folder / f"rank-{self.number}.log", lines)

    def place(self) -> str | None:
        """Where the process was when faulthandler last dumped its stack, innermost frame first; None if it did not."""
        frames = frames_of_dump(text_of(self.folder / f"rank-{self.number}.log"))
        return ", ".join(f"{file}:{line} in {name}" for file, line, name in frames[:3]) or None


def events_in(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """The events that a file has from byte `start` on, as far as their lines are whole, and where the next one begins.

    `target/talk.py` writes such files.
    """
    with path.open("rb") as file:
        file.seek(start)
        complete, newline, _ = file.read().rpartition(b"\n")
    return [json.loads(line) for line in complete.splitlines()], start + len(complete) + len(newline)


def frames_of_dump(text: str) -> list[tuple[str, str, str]]:
    """File, line and function of each frame in faulthandler's last dump, the innermost first; none without a dump."""
    _, heading, dump = text.rpartition(_DUMP_HEADING)
    return _FRAME.findall(dump) if heading else []


def ranks_of_fit(reports: Path) -> list[Rank]:
    """The processes that are there for a running fit only, below the folder of reports of its launch.

    Each has left an empty file that is named like its log, with its process id behind.
    """
    marks = sorted(reports.glob("*/rank-*.log.*"))
    return [Rank(int(_NUMBER.findall(mark.name)[0]), mark.parent, pid=int(mark.suffix[1:])) for mark in marks]


def tail_of(log: Path, lines: int) -> str:
    """The last lines of a log file that are not blank; empty where there is no such file."""
    shown = (line.rstrip().rpartition("\r")[2] for line in text_of(log).split("\n"))
    return "\n".join([line for line in shown if line.strip()][-lines:])


def text_of(log: Path) -> str:
    """The text of a file that another process may be writing; empty where there is none."""
    return log.read_bytes().decode("utf-8", errors="replace") if log.exists() else ""
