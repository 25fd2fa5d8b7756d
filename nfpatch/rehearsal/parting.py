"""Where a script parts its ranks: the line from which two of them go on differently, and what it looked at."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple, Optional

from nfpatch.engine.facts import Decision
from nfpatch.target.events import Step

# By rank, how files were changed, by path
Written = Mapping[int, Mapping[str, set[str]]]


class _Fork(NamedTuple):
    """The last line that two ranks have in common, and the next one of each, if there is one."""

    one: Step
    other: Step
    then_one: Optional[Step]
    then_other: Optional[Step]


def decision_of(
    steps: Mapping[int, Sequence[Step]],
    written: Written,
    ends_alike: bool,
    read_line: Callable[[str, int], str] = linecache.getline,
) -> Optional[Decision]:
    """The line that parts the first rank from the first that goes another way; None where that is not known.

    `steps` are the lines of each rank up to its next call; they may `end_alike`, in the same call of another model.
    """
    first = min(steps)
    for rank in steps:
        fork = _fork_of(steps[first], steps[rank], ends_alike)
        if rank != first and fork is not None:
            return Decision(
                file=fork.one.file,
                line=fork.one.line,
                text=read_line(fork.one.file, fork.one.line).strip(),
                sides={first: _side(fork.one, fork.then_one), rank: _side(fork.other, fork.then_other)},
                writers=tuple(_writers_of(fork, written)),
            )
    return None


def _fork_of(one: Sequence[Step], other: Sequence[Step], ends_alike: bool) -> Optional[_Fork]:
    """The last fork from which the ranks do not come together again, or the first where they come to the same line."""
    ways = [[(step.file, step.line) for step in steps] for steps in (one, other)]
    if ways[0] == ways[1]:
        return None
    forks = []
    matcher = SequenceMatcher(None, ways[0], ways[1], autojunk=False)
    for tag, begin, _, other_begin, _ in matcher.get_opcodes():
        if tag != "equal" and begin and other_begin:
            then = one[begin] if begin < len(one) else None
            other_then = other[other_begin] if other_begin < len(other) else None
            forks.append(_Fork(one[begin - 1], other[other_begin - 1], then, other_then))
    if not forks:
        return None
    if not ends_alike:
        return forks[-1]
    return next((fork for fork in forks if fork.one.seen != fork.other.seen), forks[0])


def _side(step: Step, then: Optional[Step]) -> str:
    """What a rank saw in a line, and where it went."""
    where = "goes on to its next call" if then is None else f"goes on in line {then.line}"
    return f"{where} ({', '.join(step.seen)})" if step.seen else where


def _writers_of(fork: _Fork, written: Written) -> list[str]:
    """Which ranks have written the files that the line looks for."""
    seen = " ".join((*fork.one.seen, *fork.other.seen))
    return [
        f"rank {rank} writes {path}"
        for rank, paths in written.items()
        for path, ways in paths.items()
        if path in seen and ways != {"removed"}
    ]
