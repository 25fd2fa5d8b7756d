"""What the processes of a rehearsal have recorded, rank by rank and call by call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nfpatch.engine.checks.diverging_calls import diverges
from nfpatch.engine.facts import Call, CallFacts, Process
from nfpatch.engine.logs import entries_in, place_of, text_of
from nfpatch.rehearsal.divergence import find_decision
from nfpatch.target.events import (
    CallStarted,
    Entry,
    OptionOverridden,
    ProcessEnded,
    ProcessStarted,
    SourceImported,
    TrainingObserved,
)

# Calls that one rank may make without the others
BY_ONE_RANK = ("predict", "predict_insample", "simulate", "explain", "save", "load")


@dataclass
class Rank:
    """One rank: the processes that run the script, by process id, and the calls of all of them.

    There are several where the script starts a program for each model. Of the first rank these are within the process
    that starts them; the other ranks have one of Lightning's for each.
    """

    processes: dict[int, Process] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    @property
    def ended(self) -> ProcessEnded | None:
        """The end of its last process; None unless all have ended by themselves, but those within another."""
        ends = [each.ended for each in self.processes.values() if not each.is_within]
        return ends[-1] if ends and None not in ends else None

    @property
    def changed_by_script(self) -> dict[str, set[str]]:
        """How the script itself has changed files outside of calls, by path."""
        found: dict[str, set[str]] = {}
        for process in self.processes.values():
            for path, ways in process.written.items():
                found.setdefault(path, set()).update(ways)
        return found

    @property
    def written(self) -> list[str]:
        """The files that it has written, in calls and outside of them."""
        changes = [self.changed_by_script, *(call.written for call in self.calls)]
        return list(dict.fromkeys(path for each in changes for path, ways in each.items() if ways != {"removed"}))


class Records:
    """All that the processes have recorded so far, read from their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: dict[int, Rank] = {}
        self.overrides: list[str] = []
        self.source: str | None = None  # the file of neuralforecast that was imported first
        self._read: dict[Path, int] = {}

    @property
    def processes(self) -> list[Process]:
        """The processes that run the script."""
        return [process for rank in self.ranks.values() for process in rank.processes.values()]

    def read(self) -> list[Entry]:
        """Reads what was recorded since the last call, and returns it."""
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
            self.ranks.setdefault(number, Rank()).processes[entry.pid] = Process(entry.pid, event.within)
        rank = self.ranks.get(number, Rank())
        process = rank.processes.get(entry.pid)
        if isinstance(event, TrainingObserved) and (process is None or event.number not in process.calls):
            self._take_spawned(event, number)
        elif process is not None:
            process.take(entry)
            if isinstance(event, CallStarted):
                rank.calls.append(process.calls[event.number])

    def _take_spawned(self, event: TrainingObserved, number: int) -> None:
        """Adds the training of a process that a call has started for a rank, or of all ranks for the first."""
        rank = self.ranks.get(number) or self.ranks.get(0) or Rank()
        for call in reversed(rank.calls):
            if call.started.number == event.number:
                call.spawned[event.index, number] = event.training
                return

    def facts(self, devices: int, ended: str | None) -> Iterator[CallFacts]:
        """What the checks look at, call by call, up to the first in which the ranks diverge."""
        for row, later in self._aligned():
            ranks = {
                number: self._call_of(rank, row.get(number), later[number])
                for number, rank in sorted(self.ranks.items())
            }
            facts = CallFacts(ranks, devices, ended=ended)
            if diverges(facts):
                steps = {number: (call.ended or call.started).steps for number, call in ranks.items()}
                written = {number: rank.written for number, rank in sorted(self.ranks.items())}
                yield replace(facts, decision=find_decision(steps, written))
                return
            yield facts

    def _call_of(self, rank: Rank, call: Call | None, later: Sequence[Call]) -> Call:
        """The call as a rank made it, or else what the rank did instead; `later` are its next calls."""
        if call is not None:
            has_gone_on = bool(later) or (rank.ended is not None and not rank.ended.error)
            return replace(call, has_gone_on=has_gone_on, place="" if call.is_over else self.place(rank))
        end = None if later else rank.ended
        failed = next((each for each in rank.calls if each.raised is not None), None)
        return Call(
            place=self.place(rank),
            failed_before="" if failed is None else f"{failed.name}, line {failed.line}",
            has_gone_on=end is not None or bool(later),
            ended=end,
        )

    def _aligned(self) -> Iterator[tuple[dict[int, Call], dict[int, list[Call]]]]:
        """The calls of the script in its order, each by rank, with the calls that are left on each rank.

        A call that one rank makes by itself, and that returned there, is one of that rank only, where the other ranks
        continue with what it calls next. After ranks have made different calls, their calls no longer belong together.
        """
        left = {number: list(rank.calls) for number, rank in sorted(self.ranks.items())}
        while any(left.values()):
            own = _rank_by_itself(left)
            row = {rank: calls[0] for rank, calls in left.items() if calls and own in (None, rank)}
            for rank in row:
                left[rank].pop(0)
            yield row, left
            if len({_identity(call) for call in row.values()}) > 1:
                return

    def place(self, rank: Rank) -> str:
        """Where a rank was when it was asked for its stack; empty if it was not, or did not answer."""
        stacks = (text_of(self.folder / f"stack-{pid}.txt") for pid in reversed([*rank.processes]))
        return place_of(next(filter(None, stacks), ""))


def _rank_by_itself(left: Mapping[int, Sequence[Call]]) -> int | None:
    """The rank that makes its next call by itself, before it continues with the others; None if none does."""
    for rank, calls in left.items():
        if not calls or calls[0].method not in BY_ONE_RANK or calls[0].returned is None:
            continue
        others = {_identity(each[0]) for number, each in left.items() if each and number != rank}
        later = {_identity(call) for call in calls[1:]}
        if others and _identity(calls[0]) not in others and others <= later:
            return rank
    return None


def _identity(call: Call) -> tuple[str, str, int]:
    """What distinguishes a call of the script from another."""
    return call.name, call.started.file, call.line
