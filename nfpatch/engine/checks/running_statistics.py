"""The ranks end with different running statistics of batch normalization."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding

WHY = "The saved model and the forecasts depend on the rank that made them."


def find(facts: CallFacts) -> Optional[Finding]:
    """The first rank that has others than the first rank."""
    returned = facts.returned
    for rank, each in returned.items():
        if each.buffers != returned[min(returned)].buffers:
            words = f"rank {rank}: has other running statistics (buffers of the model) than rank {min(returned)}"
            return Finding("wrong", words, stages=("refit",))
    return None
