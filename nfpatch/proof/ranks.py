"""What the ranks of a launch have recorded so far, read from the files they write."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from nfpatch.engine.facts import Process
from nfpatch.engine.logs import entries_in, frames_of_dump, tail_of, text_of
from nfpatch.target.events import Entry, ProcessStarted, RanksAssembled, SourceImported, StackImported

_NUMBER = re.compile(r"\d+")


@dataclass
class ReportingRank(Process):
    """One process of a launch. `read` brings the rest up to date; `target/train.py` says what it writes.

    Its calls are cases. Of a process on another node no more is known than those that are over, and its end.
    """

    number: int = 0
    folder: Path = Path()
    gpus: int | None = None
    backend: str | None = None  # of the process group, as the ranks agreed
    imported: dict[str, str | None] = field(default_factory=dict)  # tree: the file of its neuralforecast
    _read: int = 0  # bytes

    @property
    def running(self) -> set[int]:
        """The numbers of the cases that it has begun and not finished."""
        return {number for number, call in self.calls.items() if not call.is_over}

    def read(self) -> None:
        """Takes in the events that were written since the last call."""
        path = self.folder / f"rank-{self.number}.jsonl"
        entries, self._read = entries_in(path, self._read) if path.exists() else ([], self._read)
        for entry in entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Takes in one event."""
        event = entry.event
        if isinstance(event, ProcessStarted):
            self.pid = entry.pid
        elif isinstance(event, StackImported):
            self.gpus = event.gpus
        elif isinstance(event, RanksAssembled):
            self.backend = event.backend
        elif isinstance(event, SourceImported):
            self.imported[event.tree] = event.file
        else:
            super().take(entry)

    def log_tail(self, lines: int) -> str:
        """The last lines that the process printed; of a progress bar, what was to be seen last."""
        return tail_of(self.folder / f"rank-{self.number}.log", lines)

    def place(self) -> str | None:
        """Where the process was when faulthandler last dumped its stack, innermost frame first; None if it did not."""
        frames = frames_of_dump(text_of(self.folder / f"rank-{self.number}.log"))
        return ", ".join(f"{file}:{line} in {name}" for file, line, name in frames[:3]) or None


def ranks_of_fit(reports: Path) -> list[ReportingRank]:
    """The processes that are there for a running fit only, below the folder of reports of its launch.

    Each has left an empty file that is named like its log, with its process id behind.
    """
    marks = sorted(reports.glob("*/rank-*.log.*"))
    return [
        ReportingRank(int(mark.suffix[1:]), number=int(_NUMBER.findall(mark.name)[0]), folder=mark.parent)
        for mark in marks
    ]
