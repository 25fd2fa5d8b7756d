"""What checks look at: all that the ranks recorded of one call of a user's script, or of one case of the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Optional

from nfpatch.target.events import CallRaised, Frame, OwnLayerUnused, Step, Training

Outcome = Literal["pass", "unused-parameters", "error", "timeout", "wrong"]


@dataclass(frozen=True)
class RankFacts:
    """What one rank recorded of a call. `name` is empty where it has not made the call.

    `failure` is the exception with which it ended, `end` when it did (seconds since the epoch).
    `differences` say how its result differs from that of one process. `weights` are digests of the models afterwards,
    `chosen` is what searches have chosen; `written` has, by path, how files were changed, and `writers` the line of the
    user's own code that did. `place` is where the process is that has not ended the call, `failed_before` an earlier
    call in which it raised. `options` and `data` are what the call was given, in words by name, `steps` the lines of
    the script that led to it, or to the end of a process that `has_ended` without it, by an `error` of its own or not.
    One that `has_gone_on` without it may also make another call.
    """

    name: str = ""
    line: int = 0
    has_returned: bool = False
    failure: Optional[CallRaised] = None
    end: float = 0.0
    differences: tuple[str, ...] = ()
    answers: tuple[Frame, ...] = ()
    weights: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    written: Mapping[str, set[str]] = field(default_factory=dict)
    writers: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    failed_before: str = ""
    models: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    has_ended: bool = False
    has_gone_on: bool = False
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, one way or another."""
        return self.has_returned or self.failure is not None


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
    ranks: Mapping[int, RankFacts]
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
    def returned(self) -> dict[int, RankFacts]:
        """The ranks on which it returned."""
        return {rank: facts for rank, facts in self.ranks.items() if facts.has_returned}

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


def listed(names: Sequence[str]) -> str:
    """Up to three of them, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shortened(text: str) -> str:
    """At most 300 characters of it."""
    return text if len(text) <= 300 else text[:300] + " ..."
