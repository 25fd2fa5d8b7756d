"""What checks look at: all that the ranks recorded of one call of a user's script, or of one case of the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Optional

from nfpatch.target.events import (
    CallRaised,
    CallReturned,
    CallStarted,
    Comparison,
    Entry,
    FitCompared,
    MethodReplaced,
    OneDeviceOnly,
    OwnLayerUnused,
    ReferenceMade,
    Training,
    TrainingObserved,
)

Outcome = Literal["pass", "unused-parameters", "error", "timeout", "wrong"]
NOT_CALLED = CallStarted(-1, "")


@dataclass
class Call:
    """What one rank recorded of a call of the script, or of a case of the catalog. `name` is empty if it made none.

    `begin` and `end` are seconds since the epoch. `references` say how the result differs from that of one process.
    `written` has, by path, how files were changed, as "opened", "replaced" or "removed", and `writers` the line of the
    user's own code that did, if it did. `one_device` is what keeps a training on one device, `replaced` are methods
    that the script has replaced since the call before.

    `place` is where the process is that has not ended the call. Of a rank that has made none, `failed_before` is an
    earlier call in which it raised; the steps are those to the end of a process that `has_ended` without it, by an
    `error` of its own or not. One that `has_gone_on` without it may also make another call.
    """

    started: CallStarted = NOT_CALLED
    begin: float = 0.0
    end: float = 0.0
    trainings: dict[int, Training] = field(default_factory=dict)
    returned: Optional[CallReturned] = None
    raised: Optional[CallRaised] = None
    references: list[ReferenceMade] = field(default_factory=list)
    comparison: Optional[Comparison] = None
    written: dict[str, set[str]] = field(default_factory=dict)
    writers: dict[str, str] = field(default_factory=dict)
    one_device: str = ""
    replaced: list[MethodReplaced] = field(default_factory=list)
    place: str = ""
    failed_before: str = ""
    has_ended: bool = False
    has_gone_on: bool = False
    error: str = ""

    @property
    def name(self) -> str:
        """Class and method."""
        return self.started.name

    @property
    def method(self) -> str:
        """The name without the class that it is of."""
        return self.name.rpartition(".")[2]

    @property
    def line(self) -> int:
        """Where the script makes it."""
        return self.started.line

    @property
    def differences(self) -> tuple[str, ...]:
        """How the result differs from that of one process."""
        return tuple(each.differ for each in self.references if each.differ)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.returned is not None or self.raised is not None

    def take(self, entry: Entry) -> None:
        """Takes in an event of it."""
        event = entry.event
        if isinstance(event, TrainingObserved):
            self.trainings[event.index] = event.training
        elif isinstance(event, OneDeviceOnly):
            self.one_device = event.what
        elif isinstance(event, ReferenceMade):
            self.references.append(event)
        elif isinstance(event, FitCompared):
            self.comparison = event.comparison
        elif isinstance(event, CallReturned):
            self.returned, self.end = event, entry.time
        elif isinstance(event, CallRaised):
            self.raised, self.end = event, entry.time

    @property
    def detail(self) -> str:
        """The error with its frames, or in what the result is not that of one process; empty if all is well."""
        if self.raised is not None:
            return "\n".join([self.raised.message, *self.raised.places])
        return "\n".join(self.differences)


@dataclass(frozen=True)
class Decision:
    """The line of a script from which its ranks go on differently: its text, and by rank what is different.

    `writers` say which rank has changed a file that the line looks for.
    """

    file: str
    line: int
    text: str
    sides: Mapping[int, str]
    writers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallFacts:
    """What all ranks recorded of a call; `name` is that of the first.

    It `is_case` where nfpatch itself trains, and knows what is expected. `trainings` are by index in the call and by
    rank; a rank of a training may be none of the script (ddp_spawn). `world_size` and `backend` are what was asked for,
    `search` the stage that shows the search of the call, if it is one, `reference_losses` the validation loss of one
    process by training. `ended` says why nfpatch ended the processes, if it did. `one_device` is what keeps a training
    on one device, `decision` where the script parts its ranks before the call, if it does.
    """

    name: str
    ranks: Mapping[int, Call]
    trainings: Mapping[int, Mapping[int, Training]]
    world_size: int
    is_case: bool = False
    backend: Optional[str] = None
    search: str = ""
    models: tuple[str, ...] = ()
    reference_losses: Mapping[int, float] = field(default_factory=dict)
    ended: Optional[str] = None
    one_device: str = ""
    decision: Optional[Decision] = None

    @property
    def method(self) -> str:
        """The name without the class that it is of."""
        return self.name.rpartition(".")[2]

    @property
    def line(self) -> int:
        """Where the first rank calls it."""
        return next(iter(self.ranks.values())).line

    @property
    def returned(self) -> dict[int, CallReturned]:
        """What it returned, on the ranks on which it did."""
        return {rank: call.returned for rank, call in self.ranks.items() if call.returned is not None}

    def unused_parameters(self) -> tuple[str, ...]:
        """The parameters that got no gradient in some step on some rank, in the model's order."""
        return tuple(dict.fromkeys(name for training in self.all_trainings for name in training.unused))

    def own_layers(self) -> tuple[OwnLayerUnused, ...]:
        """The unused layers that the user's own classes make."""
        return tuple(dict.fromkeys(layer for training in self.all_trainings for layer in training.own_layers))

    @property
    def all_trainings(self) -> list[Training]:
        """Those of all ranks."""
        return [training for ranks in self.trainings.values() for training in ranks.values()]


@dataclass(frozen=True)
class Finding:
    """What a check has found: how the call ended, in words, and by what a patch is found that fixes it.

    `stages` are those of the catalog's cases that show just this; of an "error" they are those at which it may be
    raised, and the patch is found by its symptoms in the `message`. `unused` are parameters, by which the patch is
    found. `errors` are the distinct errors of the ranks, in full. It `is_consequence` of what is wrong with an earlier
    call.

    `why` says why it matters, and `remedy` what to change in the script, where no patch is the answer: sentences, and
    lines to write, which are indented.
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


def in_file(file: str, line: int) -> str:
    """A place in the script, in words."""
    return f"{file.replace(chr(92), '/').rpartition('/')[2]}:{line}"


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Up to three of them, and how many more."""
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shortened(text: str) -> str:
    """At most 300 characters of it."""
    return text if len(text) <= 300 else text[:300] + " ..."
