"""After a call, the models of the ranks have different weights."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "Forecasts, saved models and further training from these weights differ between ranks."


def find(facts: CallFacts) -> Finding | None:
    """The first rank whose weights differ from those of rank 0."""
    returned = facts.returned
    for rank, each in returned.items():
        if each.weights != returned[min(returned)].weights:
            words = f"rank {rank} and rank {min(returned)} have different weights after this call"
            return Finding("wrong", words, stages=(facts.search or "refit",))
    return None
