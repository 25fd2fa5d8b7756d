"""More than one rank writes the same file in a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding, listed

WHY = "A rank may read a half-written file, and the final content depends on which rank writes last."


def find(facts: CallFacts) -> Optional[Finding]:
    """The files that more than one rank writes."""
    shared = shared_files(each.written for each in facts.ranks.values())
    if not shared:
        return None
    return Finding("wrong", f"more than one rank writes {listed(shared)}", stages=("save",), remedy=_REMEDY)


_REMEDY = (
    "If the script's own code writes it, for example in a callback, write it on one rank only:",
    "    @pytorch_lightning.utilities.rank_zero_only",
)


def shared_files(written: Iterable[Mapping[str, set[str]]]) -> list[str]:
    """The paths at which writes of several ranks may conflict.

    Ranks do not conflict if all of them replace the file atomically, or all of them remove it.
    """
    ranks: Counter[str] = Counter()
    how: dict[str, set[str]] = {}
    for paths in written:
        for path, ways in paths.items():
            ranks[path] += 1
            how.setdefault(path, set()).update(ways)
    return sorted(path for path in ranks if ranks[path] > 1 and how[path] not in ({"replaced"}, {"removed"}))
