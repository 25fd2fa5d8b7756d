"""What the processes of a rehearsal have recorded, rank by rank and call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    MethodReplaced,
    OneDeviceOnly,
    OptionOverridden,
    OwnLayersUnused,
    ProcessEnded,
    ProcessStarted,
    ReferenceMade,
    SourceImported,
    TrainingObserved,
    TrainingStarted,
    TrainingStopped,
)

TrainingEvent = Union[TrainingStarted, TrainingObserved, TrainingStopped, OwnLayersUnused]
# Calls that one rank may make without the others
BY_ONE_RANK = ("predict", "predict_insample", "simulate", "explain", "save", "load")


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
    writers: dict[str, str] = field(default_factory=dict)  # by path, the line of the user's own code, or empty
    one_device: str = ""
    replaced: list[MethodReplaced] = field(default_factory=list)  # since the call before

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
class Process:
    """A process that runs as a rank: the script, or a program that the script starts."""

    pid: int
    is_within: bool
    calls: dict[int, Call] = field(default_factory=dict)  # by its own count
    ended: Optional[ProcessEnded] = None  # by itself

    @property
    def is_in_call(self) -> bool:
        """Whether a call is under way."""
        return any(not call.is_over for call in self.calls.values())


@dataclass
class Rank:
    """One rank: the processes that run the script, and the calls of all of them; others train for it in a call.

    There are several where the script starts a program for each model. Of the first rank these are within the process
    that starts them; the other ranks have one of Lightning's for each.
    """

    number: int
    processes: dict[int, Process] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    written: dict[str, set[str]] = field(default_factory=dict)  # likewise, by the script itself

    @property
    def ended(self) -> Optional[ProcessEnded]:
        """The end of its last process, where all have ended by themselves but those within another."""
        ends = [each.ended for each in self.processes.values() if not each.is_within]
        return ends[-1] if ends and None not in ends else None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.ended is not None

    def take(self, process: Process, entry: Entry) -> None:
        """Takes in an event of a process that runs the script."""
        event, calls = entry.event, process.calls
        if isinstance(event, CallStarted):
            calls[event.number] = self.calls[len(self.calls)] = Call(event)
        elif isinstance(event, FileChanged):
            call = calls.get(event.number)
            (self.written if call is None else call.written).setdefault(event.path, set()).add(event.how)
            if call is not None:
                call.writers[event.path] = event.writer
        elif isinstance(event, ProcessEnded):
            process.ended = event
        elif isinstance(event, MethodReplaced) and calls:
            calls[max(calls)].replaced.append(event)
        elif isinstance(event, OneDeviceOnly) and event.number in calls:
            calls[event.number].one_device = event.what
        elif isinstance(event, (ReferenceMade, CallReturned, CallRaised)) and event.number in calls:
            call = calls[event.number]
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
        self._under_way: dict[int, int] = {}  # by the count of a process, the last call that has begun
        self._read: dict[Path, int] = {}

    @property
    def calls(self) -> list[Call]:
        """Those of all ranks."""
        return [call for rank in self.ranks.values() for call in rank.calls.values()]

    @property
    def processes(self) -> list[Process]:
        """Those that run the script."""
        return [process for rank in self.ranks.values() for process in rank.processes.values()]

    def pids(self) -> list[int]:
        """The ids of the processes that run the script."""
        return [process.pid for process in self.processes]

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
            rank = self.ranks.setdefault(number, Rank(number))
            rank.processes[entry.pid] = Process(entry.pid, event.within)
        process = self.ranks[number].processes.get(entry.pid) if number in self.ranks else None
        if isinstance(event, (TrainingStarted, TrainingObserved, TrainingStopped, OwnLayersUnused)):
            _take_training(self._training(process, number, event), event)
        elif process is not None:
            self.ranks[number].take(process, entry)
            if isinstance(event, CallStarted):
                self._under_way[event.number] = len(self.ranks[number].calls) - 1

    def _training(self, process: Optional[Process], number: int, event: TrainingEvent) -> Training:
        """A training of the rank's own process, or of one that trains for a rank of the fit under way."""
        if process is not None and event.number in process.calls:
            return process.calls[event.number].trainings.setdefault(event.index, Training())
        call = self._under_way.get(event.number, event.number)
        return self.by_others.setdefault((call, event.index, number), Training())

    def failure_of(self, rank: int) -> str:
        """The call that has ended with an error on this rank; empty if none has."""
        calls = self.ranks[rank].calls.values()
        return next((f"{call.name}, line {call.started.line}" for call in calls if call.raised is not None), "")

    def trainings_of(self, numbers: Mapping[int, int]) -> dict[int, dict[int, Training]]:
        """The trainings of a call, which has a number on each rank, by index and rank, whichever process made them."""
        found: dict[int, dict[int, Training]] = {}
        for rank, number in numbers.items():
            for index, training in self.ranks[rank].calls[number].trainings.items():
                found.setdefault(index, {})[rank] = training
        first = numbers[min(numbers)]
        for (call, index, rank), training in self.by_others.items():
            if call == numbers.get(rank, first):
                found.setdefault(index, {}).setdefault(rank, training)
        return dict(sorted(found.items()))

    def aligned(self) -> list[dict[int, int]]:
        """The calls of the script in its order: by rank, the number of each.

        A call that one rank makes by itself, and that returned there, is one of that rank only, where the other ranks
        go on with what it calls next. After one in which the ranks part there are none, as the calls of the ranks no
        longer belong together.
        """
        left = {rank: sorted(each.calls) for rank, each in sorted(self.ranks.items())}
        rows: list[dict[int, int]] = []
        while any(left.values()):
            row = {rank: numbers[0] for rank, numbers in left.items() if numbers}
            own = self._rank_by_itself(row, left)
            if own is None and len({self._identity(rank, number) for rank, number in row.items()}) > 1:
                return [*rows, row]
            row = row if own is None else {own: row[own]}
            for rank in row:
                left[rank] = left[rank][1:]
            rows.append(row)
        return rows

    def _rank_by_itself(self, row: Mapping[int, int], left: Mapping[int, Sequence[int]]) -> Optional[int]:
        """The rank that makes the next call by itself, before it goes on with the others; None if none does."""
        for rank, number in row.items():
            call = self.ranks[rank].calls[number]
            others = {self._identity(each, left[each][0]) for each in row if each != rank}
            later = {self._identity(rank, each) for each in left[rank][1:]}
            if self._identity(rank, number) in others or call.returned is None:
                continue
            if call.method in BY_ONE_RANK and others and others <= later:
                return rank
        return None

    def _identity(self, rank: int, number: int) -> tuple[str, str, int]:
        """What tells one call of the script from another."""
        started = self.ranks[rank].calls[number].started
        return started.name, started.file, started.line

    def stack_of(self, rank: Rank) -> str:
        """The stack that a rank has printed when it was asked; empty if it was not, or did not answer."""
        stacks = (text_of(self.folder / f"stack-{pid}.txt") for pid in reversed([*rank.processes]))
        return next(filter(None, stacks), "")


def _take_training(training: Training, event: TrainingEvent) -> None:
    """Takes in an event of a training."""
    if isinstance(event, OwnLayersUnused):
        training.own_layers = event.layers
        return
    if isinstance(event, TrainingStopped):
        training.stopped_by, training.stopped_after = event.place, event.steps
        return
    training.model = event.model
    if isinstance(event, TrainingStarted):
        training.world_size, training.find_unused, training.bases = event.world_size, event.find_unused, event.bases
    else:
        training.steps, training.losses, training.validated = event.steps, event.losses, event.validated
        training.unused, training.weights = event.unused, event.weights
