"""What the ranks recorded of a call of a user's script, or of a case of the catalog, and what a check finds in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nfpatch.target.events import (
    CallRaised,
    CallReturned,
    CallStarted,
    Entry,
    FileChanged,
    FitCompared,
    MethodReplaced,
    OneDeviceOnly,
    OwnLayerUnused,
    ProcessEnded,
    ReferenceMade,
    Training,
    TrainingObserved,
)

Outcome = Literal["pass", "unused-parameters", "error", "timeout", "wrong"]
_NOT_CALLED = CallStarted(-1, "")


@dataclass
class Call:
    """What one rank recorded of a call of the script, or of a case of the catalog. `name` is empty if it made none.

    `begin` and `end` are seconds since the epoch. `trainings` are by index, `spawned` those of processes that exist for
    a training only, by index and rank. `references` compare the result with the single-process reference. `written`
    has, by path, how files were changed ("opened", "replaced" or "removed"), `writers` the line of the user's own code
    that did. `one_device` is what keeps a training on one device, `replaced` are methods that the script has replaced
    since the call before.

    `place` is where the process is that has not ended the call. A rank `has_gone_on` if it made another call or exited
    after this one, without an error. Of a rank that did not make the call, `failed_before` is an earlier call in which
    it raised, `ended` how it exited without the call.
    """

    started: CallStarted = _NOT_CALLED
    begin: float = 0.0
    end: float = 0.0
    trainings: dict[int, Training] = field(default_factory=dict)
    spawned: dict[tuple[int, int], Training] = field(default_factory=dict)
    returned: CallReturned | None = None
    raised: CallRaised | None = None
    references: list[ReferenceMade] = field(default_factory=list)
    comparison: FitCompared | None = None
    written: dict[str, set[str]] = field(default_factory=dict)
    writers: dict[str, str] = field(default_factory=dict)
    one_device: str = ""
    replaced: list[MethodReplaced] = field(default_factory=list)
    place: str = ""
    failed_before: str = ""
    has_gone_on: bool = False
    ended: ProcessEnded | None = None

    @property
    def name(self) -> str:
        """Class and method."""
        return self.started.name

    @property
    def method(self) -> str:
        """The name without the class."""
        return self.name.rpartition(".")[2]

    @property
    def line(self) -> int:
        """The line of the script."""
        return self.started.line

    @property
    def differences(self) -> tuple[str, ...]:
        """How the result differs from the single-process reference."""
        return tuple(each.differ for each in self.references if each.differ)

    @property
    def is_over(self) -> bool:
        """Whether it has returned or raised."""
        return self.returned is not None or self.raised is not None

    def take(self, entry: Entry) -> None:
        """Adds an event of this call."""
        event = entry.event
        if isinstance(event, TrainingObserved):
            self.trainings[event.index] = event.training
        elif isinstance(event, OneDeviceOnly):
            self.one_device = event.what
        elif isinstance(event, ReferenceMade):
            self.references.append(event)
        elif isinstance(event, FitCompared):
            self.comparison = event
        elif isinstance(event, CallReturned):
            self.returned, self.end = event, entry.time
        elif isinstance(event, CallRaised):
            self.raised, self.end = event, entry.time

    @property
    def detail(self) -> str:
        """The error with its frames, or the differences from the single-process reference; empty without either."""
        if self.raised is not None:
            return "\n".join([self.raised.message, *self.raised.places])
        return "\n".join(self.differences)


@dataclass
class Process:
    """A process that runs as a rank: the script, or a program that the script starts; `pid` is 0 until it is known."""

    pid: int = 0
    is_within: bool = False
    calls: dict[int, Call] = field(default_factory=dict)  # by its own count
    written: dict[str, set[str]] = field(default_factory=dict)  # outside of calls, as in a call
    ended: ProcessEnded | None = None  # by itself

    @property
    def is_in_call(self) -> bool:
        """Whether a call has started and not ended."""
        return any(not call.is_over for call in self.calls.values())

    def take(self, entry: Entry) -> None:
        """Adds an event of this process."""
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


@dataclass(frozen=True)
class Decision:
    """The line of a script after which its ranks diverge: its text, and by rank what it saw and where it continued.

    `writers` say which rank has written a file that the line looks for.
    """

    file: str
    line: int
    text: str
    sides: Mapping[int, str]
    writers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallFacts:
    """What all ranks recorded of a call, and what is expected of it: `world_size` and `backend`.

    It `is_case` if it is a case of the catalog, and not a call of a user's script. `ended` is why nfpatch ended the
    processes, `decision` where the ranks diverge before the call; None if they did not.
    """

    ranks: Mapping[int, Call]
    world_size: int
    is_case: bool = False
    backend: str | None = None
    ended: str | None = None
    decision: Decision | None = None

    @property
    def made(self) -> dict[int, Call]:
        """The call on the ranks that made it."""
        return {rank: call for rank, call in self.ranks.items() if call.name}

    @property
    def first(self) -> Call:
        """The call on the first rank that made it."""
        return next(iter(self.made.values()), Call())

    @property
    def search(self) -> str:
        """The stage of the catalog that shows its search; empty if it is no search."""
        return self.first.started.search

    @property
    def models(self) -> tuple[str, ...]:
        """The classes of its models; those that were trained if the call has none of its own."""
        trained = (training.model for training in self.all_trainings if training.model)
        return tuple(dict.fromkeys(self.first.started.models or trained))

    @property
    def one_device(self) -> str:
        """What keeps a training on one device; empty if nothing does."""
        return next((call.one_device for call in self.ranks.values() if call.one_device), "")

    @property
    def references(self) -> list[ReferenceMade]:
        """What the single-process reference gave."""
        return [reference for call in self.ranks.values() for reference in call.references]

    @property
    def returned(self) -> dict[int, CallReturned]:
        """What it returned, on the ranks on which it did."""
        return {rank: call.returned for rank, call in self.ranks.items() if call.returned is not None}

    @property
    def trainings(self) -> dict[int, dict[int, Training]]:
        """The trainings by index and rank; with ddp_spawn, more ranks than make the call."""
        found: dict[int, dict[int, Training]] = {}
        for rank, call in self.ranks.items():
            for index, training in call.trainings.items():
                found.setdefault(index, {})[rank] = training
        for call in self.ranks.values():
            for (index, rank), training in call.spawned.items():
                found.setdefault(index, {}).setdefault(rank, training)
        return dict(sorted(found.items()))

    @property
    def joint_trainings(self) -> dict[int, dict[int, Training]]:
        """The trainings of several processes together, by index and rank."""
        found = self.trainings.items()
        return {index: ranks for index, ranks in found if all((each.world_size or 0) > 1 for each in ranks.values())}

    @property
    def all_trainings(self) -> list[Training]:
        """The trainings of all ranks."""
        return [training for ranks in self.trainings.values() for training in ranks.values()]

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """The parameters without a gradient in some step on some rank, in the model's order."""
        return tuple(dict.fromkeys(name for training in self.all_trainings for name in training.unused))

    @property
    def own_layers(self) -> tuple[OwnLayerUnused, ...]:
        """The unused layers that the user's own classes create."""
        return tuple(dict.fromkeys(layer for training in self.all_trainings for layer in training.own_layers))


@dataclass(frozen=True)
class Finding:
    """What a check has found, in words, and what leads to the patch that fixes it.

    A patch fixes it if one of its cases has one of these `stages`, or if it handles the `unused` parameters; an "error"
    must also have one of the patch's symptoms in its `message`. `errors` are the distinct errors of the ranks, in full.
    It `is_consequence` if an earlier call has the cause.

    `why` says why it matters, `remedy` what to change in the script: sentences, and indented lines of code.
    """

    outcome: Outcome
    detail: str
    stages: tuple[str, ...] = ()
    message: str = ""
    unused: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    is_consequence: bool = False
    why: str = ""
    remedy: tuple[str, ...] = ()


def base_name(path: str) -> str:
    """The last part of a path, also of one of Windows."""
    return path.replace("\\", "/").rpartition("/")[2]


def in_file(file: str, line: int) -> str:
    """A place in the script, as file name and line."""
    return f"{base_name(file)}:{line}"


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Up to three names, and how many more there are."""
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shortened(text: str) -> str:
    """The first 300 characters of a text."""
    return text if len(text) <= 300 else text[:300] + " ..."
