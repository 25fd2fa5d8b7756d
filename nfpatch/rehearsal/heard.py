"""What the processes of a rehearsal have noted, rank by rank and call by call."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from nfpatch.proof.ranks import events_in, text_of


@dataclass
class Training:
    """One training of a call, as one rank saw it; `target/rehearsal/noting.py` tells what is noted."""

    model: str = ""
    world_size: int = 0
    find_unused: Optional[bool] = None
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    validated: list[float] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    weights: Optional[str] = None

    def take(self, event: dict[str, Any]) -> None:
        """Takes in what was noted of it."""
        for name in ("model", "world_size", "find_unused", "steps", "losses", "validated", "unused", "weights"):
            if event.get(name) is not None:
                setattr(self, name, event[name])


@dataclass
class Call:
    """One call of the script, as one rank made it."""

    number: int
    name: str
    file: str
    line: int
    models: list[str]
    search: str
    trainings: dict[int, Training] = field(default_factory=dict)
    returned: Optional[dict[str, Any]] = None
    raised: Optional[dict[str, Any]] = None
    alone: list[dict[str, Any]] = field(default_factory=list)
    written: dict[str, set[str]] = field(default_factory=dict)  # by path, how: "opened", "replaced" or "removed"

    @property
    def method(self) -> str:
        """The name without the class that it is of."""
        return self.name.rpartition(".")[2]

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.returned is not None or self.raised is not None


@dataclass
class Rank:
    """One rank: the process that runs the script, and those that train for it and end with the training."""

    number: int
    pid: int
    calls: dict[int, Call] = field(default_factory=dict)
    written: dict[str, set[str]] = field(default_factory=dict)  # likewise, by the script itself
    has_ended: bool = False  # by itself


class Heard:
    """All that the processes have noted so far, read from their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: dict[int, Rank] = {}
        self.changed: list[str] = []
        self.source: Optional[dict[str, Any]] = None
        self.by_others: dict[tuple[int, int, int], Training] = {}  # of processes that are no ranks of the script
        self._read: dict[Path, int] = {}

    def read(self) -> list[dict[str, Any]]:
        """Takes in what was noted since the last call, and returns it."""
        events: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob("events-*.jsonl")):
            more, self._read[path] = events_in(path, self._read.get(path, 0))
            events += more
        events.sort(key=lambda event: float(event["time"]))
        for event in events:
            self._take(event)
        return events

    def _take(self, event: dict[str, Any]) -> None:
        kind, number = event["event"], event["rank"]
        if kind == "begin":
            self.ranks[number] = Rank(number, event["pid"])
        elif kind == "source":
            self.source = self.source or event
        elif kind == "changed":
            self.changed += [event["what"]] * (event["what"] not in self.changed)
        rank = self.ranks.get(number)
        if kind in ("training", "trained"):
            self._take_training(rank, event)
        elif rank is None or rank.pid != event["pid"]:
            return
        elif kind == "call":
            told = (event[name] for name in ("number", "name", "file", "line", "models", "search"))
            rank.calls[event["number"]] = Call(*told)
        elif kind == "wrote":
            call = rank.calls.get(event["number"])
            (rank.written if call is None else call.written).setdefault(event["path"], set()).add(event["how"])
        elif kind == "end":
            rank.has_ended = True
        elif event.get("number") in rank.calls:
            call = rank.calls[event["number"]]
            if kind == "alone":
                call.alone.append(event)
            elif kind == "returned":
                call.returned = event
            elif kind == "raised":
                call.raised = event

    def failure_of(self, rank: int) -> str:
        """The call that has ended with an error on this rank; empty if none has."""
        calls = self.ranks[rank].calls.values()
        return next((f"{call.name}, line {call.line}" for call in calls if call.raised is not None), "")

    def _take_training(self, rank: Optional[Rank], event: dict[str, Any]) -> None:
        """A training of the rank's own process, or of one that trains for a rank of the fit under way."""
        if rank is not None and rank.pid == event["pid"] and event["number"] in rank.calls:
            trainings = rank.calls[event["number"]].trainings
            trainings.setdefault(event["index"], Training()).take(event)
        else:
            key = event["number"], event["index"], event["rank"]
            self.by_others.setdefault(key, Training()).take(event)

    def trainings_of(self, number: int) -> dict[int, dict[int, Training]]:
        """The trainings of a call by index, each by rank, whichever process has made it."""
        found: dict[int, dict[int, Training]] = {}
        for rank in self.ranks.values():
            for index, training in rank.calls[number].trainings.items() if number in rank.calls else ():
                found.setdefault(index, {})[rank.number] = training
        for (call, index, rank_number), training in self.by_others.items():
            if call == number:
                found.setdefault(index, {}).setdefault(rank_number, training)
        return dict(sorted(found.items()))

    @property
    def numbers(self) -> list[int]:
        """The numbers of all calls that some rank has made."""
        return sorted({number for rank in self.ranks.values() for number in rank.calls})

    def stack_of(self, rank: Rank) -> str:
        """The stack that a rank has printed when it was asked; empty if it was not, or did not answer."""
        return text_of(self.folder / f"stack-{rank.pid}.txt")
