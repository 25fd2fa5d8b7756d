"""The result of a call differs from the single-process reference, or from the expectation of the case."""

from __future__ import annotations

from nfpatch.engine.checks.hangs import STAGES
from nfpatch.engine.facts import CallFacts, Finding

WHY = "The result on several devices differs from the result on one."


def find(facts: CallFacts) -> Finding | None:
    """Each distinct difference, with its rank if more than one was compared."""
    differences: dict[str, str] = {}
    for rank, each in facts.ranks.items():
        for words in each.differences:
            differences.setdefault(words, f"rank {rank}: {words}" if facts.is_case else words)
    if not differences:
        return None
    return Finding("wrong", "\n".join(differences.values()), stages=(STAGES.get(facts.first.method, ""),))
