"""The ranks of a search chose different trials."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "Each rank continues with a different model: training them together fails, and forecasts differ."


def find(facts: CallFacts) -> Finding | None:
    """The first rank whose choice differs from that of rank 0."""
    chosen = {rank: each.chosen for rank, each in facts.returned.items()}
    for rank, actual in chosen.items():
        for own, expected in zip(actual, chosen[min(chosen)]):
            if own != expected:
                words = f"rank {min(chosen)} chose {expected}, rank {rank} chose {own}"
                return Finding("wrong", words, stages=(facts.search,))
    return None
