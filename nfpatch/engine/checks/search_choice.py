"""The ranks of a search have chosen different trials."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding

WHY = "Each rank goes on with a model of its own: training them together fails, and forecasts differ."


def find(facts: CallFacts) -> Optional[Finding]:
    """The first rank that has chosen another trial than the first rank."""
    chosen = {rank: each.chosen for rank, each in facts.returned.items()}
    for rank, found in chosen.items():
        for own, expected in zip(found, chosen[min(chosen)]):
            if own != expected:
                words = f"rank {min(chosen)} has chosen {expected}; rank {rank} {own}"
                return Finding("wrong", words, stages=(facts.search,))
    return None
