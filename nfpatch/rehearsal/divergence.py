"""Where the ranks of a script diverge: the line after which two of them take different paths, and its cause."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Optional

from nfpatch.engine.facts import Decision
from nfpatch.target.events import Step

# Within how many steps two paths may join again
_LONGEST = 100
# A line that a rank ran, and the next one, if there is one
_Branch = tuple[Step, Optional[Step]]


def find_decision(
    steps: Mapping[int, Sequence[Step]],
    written: Mapping[int, Sequence[str]],
    read_line: Callable[[str, int], str] = linecache.getline,
) -> Optional[Decision]:
    """The line at which the first rank diverges from another one; None where that is not known.

    By rank, `steps` are the lines up to its next call, and `written` the files that it has written.
    """
    first = min(steps)
    for rank in steps:
        fork = _find_fork(steps[first], steps[rank])
        if fork is not None:
            line = fork[0][0]
            seen = " ".join(what for step, _ in fork for what in step.seen)
            return Decision(
                file=line.file,
                line=line.line,
                text=read_line(line.file, line.line).strip(),
                sides={first: _side(*fork[0]), rank: _side(*fork[1])},
                writers=tuple(
                    f"rank {writer} writes {path}"
                    for writer, paths in written.items()
                    for path in paths
                    if path in seen
                ),
            )
    return None


def _find_fork(one: Sequence[Step], other: Sequence[Step]) -> Optional[tuple[_Branch, _Branch]]:
    """The last line that two ranks have in common, after which they do not join again; None where there is none."""
    here = there = 0
    fork = None
    while here < len(one) and there < len(other):
        if _is_same(one[here], other[there]):
            here, there = here + 1, there + 1
            continue
        if not here:
            return None  # they diverge by the result of the last call
        fork = _branch_at(one, here), _branch_at(other, there)
        joined = _find_join(one[here : here + _LONGEST], other[there : there + _LONGEST], one[here - 1])
        if joined is None:
            return fork
        here, there = here + joined[0], there + joined[1]
    if here and (here < len(one) or there < len(other)):
        return _branch_at(one, here), _branch_at(other, there)
    return fork


def _branch_at(steps: Sequence[Step], index: int) -> _Branch:
    return steps[index - 1], steps[index] if index < len(steps) else None


def _find_join(one: Sequence[Step], other: Sequence[Step], branch: Step) -> Optional[tuple[int, int]]:
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
    """Where a rank continued after a line, and the values that it saw there."""
    where = "continues to its next call" if then is None else f"continues in line {then.line}"
    return f"{where} ({', '.join(step.seen)})" if step.seen else where
