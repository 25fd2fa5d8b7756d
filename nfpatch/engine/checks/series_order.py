"""The ranks of a multivariate model, which sees all series in every batch, have them in different orders."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "The ranks train one model on different targets, so the result differs from the single-process reference."


def find(facts: CallFacts) -> Finding | None:
    """The first rank whose batches differ from those of rank 0."""
    for ranks in facts.trainings.values():
        first = ranks[min(ranks)].batches
        for rank, each in ranks.items():
            steps = sum(one != other for one, other in zip(each.batches, first))
            if steps:
                words = f"rank {rank} and rank {min(ranks)} have the series in different orders"
                return Finding("wrong", f"{words}, at {steps} of {len(first)} steps", stages=("one-order",))
    return None
