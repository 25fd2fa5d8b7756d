"""Where the ranks of a script diverge: the line after which two of them take different paths, and its cause."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional

from nfpatch.engine.facts import Decision
from nfpatch.target.events import Step

# Within how many steps two paths may join again
_LONGEST = 100
# By rank, how files were changed, by path
Written = Mapping[int, Mapping[str, set[str]]]


class _Fork(NamedTuple):
    """The last line that two ranks have in common, and the next one of each, if there is one."""

    one: Step
    other: Step
    then_one: Optional[Step]
    then_other: Optional[Step]


def decision_of(
    steps: Mapping[int, Sequence[Step]], written: Written, read_line: Callable[[str, int], str] = linecache.getline
) -> Optional[Decision]:
    """The line at which the first rank diverges from another one; None where that is not known.

    `steps` are the lines of each rank up to its next call.
    """
    first = min(steps)
    for rank in steps:
        fork = _fork_of(steps[first], steps[rank])
        if fork is not None:
            return Decision(
                file=fork.one.file,
                line=fork.one.line,
                text=read_line(fork.one.file, fork.one.line).strip(),
                sides={first: _side(fork.one, fork.then_one), rank: _side(fork.other, fork.then_other)},
                writers=tuple(_writers_of(fork, written)),
            )
    return None


def _fork_of(one: Sequence[Step], other: Sequence[Step]) -> Optional[_Fork]:
    """The fork after which the ranks do not join again, or the last one; None where there is none."""
    here = there = 0
    fork = None
    while here < len(one) and there < len(other):
        if _is_same(one[here], other[there]):
            here, there = here + 1, there + 1
            continue
        if not here:
            return None  # they diverge by the result of the last call
        fork = _Fork(one[here - 1], other[there - 1], one[here], other[there])
        joined = _join_of(one[here : here + _LONGEST], other[there : there + _LONGEST], fork.one)
        if joined is None:
            return fork
        here, there = here + joined[0], there + joined[1]
    if here and there and (here < len(one) or there < len(other)):
        rest = [steps[index] if index < len(steps) else None for steps, index in ((one, here), (other, there))]
        return _Fork(one[here - 1], other[there - 1], *rest)
    return fork


def _join_of(one: Sequence[Step], other: Sequence[Step], branch: Step) -> Optional[tuple[int, int]]:
    """After how many steps of each rank two paths from a line join, later in its function or at that line."""
    one, other = (_onward(steps, branch) for steps in (one, other))
    pairs = ((here, there) for here, step in enumerate(one) for there, its in enumerate(other) if _is_same(step, its))
    return min(pairs, key=sum, default=None)


def _onward(steps: Sequence[Step], branch: Step) -> Sequence[Step]:
    """The steps up to the first that jumps back in the function of a line, as a surrounding loop does."""
    for index, step in enumerate(steps):
        if (step.file, step.function) == (branch.file, branch.function) and step.line < branch.line:
            return steps[:index]
    return steps


def _is_same(one: Step, other: Step) -> bool:
    return (one.file, one.line) == (other.file, other.line)


def _side(step: Step, then: Optional[Step]) -> str:
    """The values that a rank saw in a line, and where it continued."""
    where = "continues to its next call" if then is None else f"continues in line {then.line}"
    return f"{where} ({', '.join(step.seen)})" if step.seen else where


def _writers_of(fork: _Fork, written: Written) -> list[str]:
    """The ranks that wrote the files that the line looks for."""
    seen = " ".join((*fork.one.seen, *fork.other.seen))
    return [
        f"rank {rank} writes {path}"
        for rank, paths in written.items()
        for path, ways in paths.items()
        if path in seen and ways != {"removed"}
    ]
