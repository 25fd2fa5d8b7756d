"""After a training, the ranks have different running statistics of batch normalization."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "Saved models and forecasts depend on the rank."


def find(facts: CallFacts) -> Finding | None:
    """The first rank whose running statistics differ from those of rank 0."""
    for ranks in facts.trainings.values():
        for rank, each in ranks.items():
            if each.buffers != ranks[min(ranks)].buffers:
                words = f"rank {rank} and rank {min(ranks)} have different running statistics (buffers of the model)"
                return Finding("wrong", words, stages=("refit",))
    return None
