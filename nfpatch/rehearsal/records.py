"""What the processes of a rehearsal have recorded, rank by rank and call by call."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Union

from nfpatch.engine.facts import Training
from nfpatch.engine.logs import entries_in, text_of
from nfpatch.target.events import (
    CallRaised,
    CallReturned,
    CallStarted,
    Entry,
    FileChanged,
    OptionOverridden,
    ProcessEnded,
    ProcessStarted,
    ReferenceMade,
    SourceImported,
    TrainingObserved,
    TrainingStarted,
)


@dataclass
class Raised:
    """The exception with which a call ended, and when (seconds since the epoch)."""

    event: CallRaised
    time: float


@dataclass
class Call:
    """One call of the script, as one rank made it."""

    started: CallStarted
    trainings: dict[int, Training] = field(default_factory=dict)
    returned: Optional[CallReturned] = None
    raised: Optional[Raised] = None
    references: list[ReferenceMade] = field(default_factory=list)
    written: dict[str, set[str]] = field(default_factory=dict)  # by path, how: "opened", "replaced" or "removed"

    @property
    def name(self) -> str:
        """Class and method."""
        return self.started.name

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

    def take(self, entry: Entry) -> None:
        """Takes in an event of the process that runs the script."""
        event = entry.event
        if isinstance(event, CallStarted):
            self.calls[event.number] = Call(event)
        elif isinstance(event, FileChanged):
            call = self.calls.get(event.number)
            (self.written if call is None else call.written).setdefault(event.path, set()).add(event.how)
        elif isinstance(event, ProcessEnded):
            self.has_ended = True
        elif isinstance(event, (ReferenceMade, CallReturned, CallRaised)) and event.number in self.calls:
            call = self.calls[event.number]
            if isinstance(event, ReferenceMade):
                call.references.append(event)
            elif isinstance(event, CallReturned):
                call.returned = event
            else:
                call.raised = Raised(event, entry.time)


class Records:
    """All that the processes have recorded so far, read from their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: dict[int, Rank] = {}
        self.overrides: list[str] = []
        self.source: Optional[str] = None  # the file of neuralforecast that was imported first
        self.by_others: dict[tuple[int, int, int], Training] = {}  # of processes that are no ranks of the script
        self._read: dict[Path, int] = {}

    def pids(self) -> list[int]:
        """The ids of the processes that run the script."""
        return [rank.pid for rank in self.ranks.values()]

    def read(self) -> list[Entry]:
        """Takes in what was recorded since the last call, and returns it."""
        entries: list[Entry] = []
        for path in sorted(self.folder.glob("events-*.jsonl")):
            more, self._read[path] = entries_in(path, self._read.get(path, 0))
            entries += more
        entries.sort(key=lambda entry: entry.time)
        for entry in entries:
            self._take(entry)
        return entries

    def _take(self, entry: Entry) -> None:
        event, number = entry.event, entry.rank
        if isinstance(event, SourceImported):
            self.source = self.source or event.file
        elif isinstance(event, OptionOverridden) and event.what not in self.overrides:
            self.overrides.append(event.what)
        if number is None:
            return
        if isinstance(event, ProcessStarted):
            self.ranks[number] = Rank(number, entry.pid)
        rank = self.ranks.get(number)
        is_own = rank is not None and rank.pid == entry.pid
        if isinstance(event, (TrainingStarted, TrainingObserved)):
            _take_training(self._training(rank if is_own else None, number, event), event)
        elif rank is not None and is_own:
            rank.take(entry)

    def _training(self, rank: Optional[Rank], number: int, event: Union[TrainingStarted, TrainingObserved]) -> Training:
        """A training of the rank's own process, or of one that trains for a rank of the fit under way."""
        if rank is not None and event.number in rank.calls:
            return rank.calls[event.number].trainings.setdefault(event.index, Training())
        return self.by_others.setdefault((event.number, event.index, number), Training())

    def failure_of(self, rank: int) -> str:
        """The call that has ended with an error on this rank; empty if none has."""
        calls = self.ranks[rank].calls.values()
        return next((f"{call.name}, line {call.started.line}" for call in calls if call.raised is not None), "")

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


def _take_training(training: Training, event: Union[TrainingStarted, TrainingObserved]) -> None:
    """Takes in an event of a training."""
    training.model = event.model
    if isinstance(event, TrainingStarted):
        training.world_size, training.find_unused = event.world_size, event.find_unused
    else:
        training.steps, training.losses, training.validated = event.steps, event.losses, event.validated
        training.unused, training.weights = event.unused, event.weights
