"""The result of a call is not that of one process, or not the one that the case says."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.checks.hangs import STAGES
from nfpatch.engine.facts import CallFacts, Finding

WHY = "On several devices the script gets another result than on one."


def find(facts: CallFacts) -> Optional[Finding]:
    """Each distinct difference, with the rank that has it where it is not the only one that was compared."""
    differences: dict[str, str] = {}
    for rank, each in facts.ranks.items():
        for words in each.differences:
            differences.setdefault(words, f"rank {rank}: {words}" if facts.is_case else words)
    if not differences:
        return None
    return Finding("wrong", "\n".join(differences.values()), stages=(STAGES.get(facts.method, ""),))
