"""More than one rank writes the same files in a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding, listed

WHY = "A rank may read, or leave, a file that another has written half."


def find(facts: CallFacts) -> Optional[Finding]:
    """The files."""
    shared = shared_files(each.written for each in facts.ranks.values())
    if not shared:
        return None
    return Finding("wrong", f"more than one rank writes {listed(shared)}", stages=("save",), remedy=_REMEDY)


_REMEDY = (
    "Where the script's own code writes it, as in a callback, let one rank do it:",
    "    @pytorch_lightning.utilities.rank_zero_only",
)


def shared_files(written: Iterable[Mapping[str, set[str]]]) -> list[str]:
    """The paths at which ranks may do each other harm: more than one of them, and not all put a whole file there.

    Nor does it matter that more than one removes the same.
    """
    ranks: Counter[str] = Counter()
    how: dict[str, set[str]] = {}
    for paths in written:
        for path, ways in paths.items():
            ranks[path] += 1
            how.setdefault(path, set()).update(ways)
    return sorted(path for path in ranks if ranks[path] > 1 and how[path] not in ({"replaced"}, {"removed"}))
