"""What the processes of a run have recorded, rank by rank and call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from nfpatch.engine.facts import Call, CallFacts
from nfpatch.engine.logs import entries_in, text_of
from nfpatch.target.events import (
    CallStarted,
    Entry,
    FileChanged,
    MethodReplaced,
    OptionOverridden,
    ProcessEnded,
    ProcessStarted,
    SourceImported,
    Training,
    TrainingObserved,
)

# Calls that one rank may make without the others
BY_ONE_RANK = ("predict", "predict_insample", "simulate", "explain", "save", "load")


def facts_of_call(
    calls: Mapping[int, Call], trainings: Mapping[int, Mapping[int, Training]], world_size: int
) -> CallFacts:
    """What the checks look at of a call, by the ranks that made it."""
    first = next(iter(calls.values())).started
    references = [reference for call in calls.values() for reference in call.references]
    trained = (training.model for by_rank in trainings.values() for training in by_rank.values() if training.model)
    return CallFacts(
        name=first.name,
        ranks=calls,
        trainings=trainings,
        world_size=world_size,
        search=first.search,
        models=tuple(dict.fromkeys(first.models)) or tuple(dict.fromkeys(trained)),
        reference_losses={
            each.index: each.validation for each in references if each.index is not None and each.validation is not None
        },
        one_device=next((call.one_device for call in calls.values() if call.one_device), ""),
    )


@dataclass
class Process:
    """A process that runs as a rank: the script, or a program that the script starts; its id is 0 until it is known."""

    pid: int = 0
    is_within: bool = False
    calls: dict[int, Call] = field(default_factory=dict)  # by its own count
    written: dict[str, set[str]] = field(default_factory=dict)  # outside of calls, as in a call
    ended: Optional[ProcessEnded] = None  # by itself

    @property
    def is_in_call(self) -> bool:
        """Whether a call is under way."""
        return any(not call.is_over for call in self.calls.values())

    def take(self, entry: Entry) -> None:
        """Takes in an event of it."""
        event, calls = entry.event, self.calls
        if isinstance(event, CallStarted):
            calls[event.number] = Call(event, entry.time)
        elif isinstance(event, FileChanged):
            call = calls.get(event.number)
            (self.written if call is None else call.written).setdefault(event.path, set()).add(event.how)
            if call is not None:
                call.writers[event.path] = event.writer
        elif isinstance(event, ProcessEnded):
            self.ended = event
        elif isinstance(event, MethodReplaced) and calls:
            calls[max(calls)].replaced.append(event)
        elif getattr(event, "number", None) in calls:
            calls[event.number].take(entry)


@dataclass
class Rank:
    """One rank: the processes that run the script, and the calls of all of them; others train for it in a call.

    There are several where the script starts a program for each model. Of the first rank these are within the process
    that starts them; the other ranks have one of Lightning's for each.
    """

    number: int
    processes: dict[int, Process] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)

    @property
    def ended(self) -> Optional[ProcessEnded]:
        """The end of its last process, where all have ended by themselves but those within another."""
        ends = [each.ended for each in self.processes.values() if not each.is_within]
        return ends[-1] if ends and None not in ends else None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.ended is not None

    @property
    def written(self) -> dict[str, set[str]]:
        """How the script itself has changed files, by path."""
        found: dict[str, set[str]] = {}
        for process in self.processes.values():
            for path, ways in process.written.items():
                found.setdefault(path, set()).update(ways)
        return found


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
        rank = self.ranks.get(number, Rank(number))
        if isinstance(event, ProcessStarted):
            self.ranks[number] = rank
            rank.processes[entry.pid] = Process(entry.pid, event.within)
        process = rank.processes.get(entry.pid)
        if isinstance(event, TrainingObserved) and (process is None or event.number not in process.calls):
            call = self._under_way.get(event.number, event.number)
            self.by_others[call, event.index, number] = event.training
        elif process is not None:
            process.take(entry)
            if isinstance(event, CallStarted):
                self._under_way[event.number] = len(rank.calls)
                rank.calls[len(rank.calls)] = process.calls[event.number]

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
