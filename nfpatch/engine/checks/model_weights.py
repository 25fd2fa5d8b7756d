"""After a call, the models of the ranks have different weights."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding

WHY = "What follows differs from rank to rank: forecasts, saved models, and the training that goes on from them."


def find(facts: CallFacts) -> Optional[Finding]:
    """The first rank that has others than the first rank."""
    returned = facts.returned
    for rank, each in returned.items():
        if each.weights != returned[min(returned)].weights:
            words = f"rank {rank} goes on with other weights than rank {min(returned)}"
            return Finding("wrong", words, stages=(facts.search or "refit",))
    return None
