"""The ranks take different numbers of steps in one training."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding

WHY = "A rank that stops earlier leaves the others waiting for its gradients, or with other weights."


def find(facts: CallFacts) -> Optional[Finding]:
    """The first training of all ranks, ended on all, in which a rank took fewer or more steps than the first."""
    for index, ranks in facts.trainings.items():
        has_ended = all(each.weights is not None and (each.world_size or 0) > 1 for each in ranks.values())
        first = min(ranks)
        for rank, each in ranks.items() if has_ended else ():
            if each.steps != ranks[first].steps:
                which = f"training {index + 1}" if len(facts.trainings) > 1 else "the training"
                words = f"rank {rank} took {each.steps} steps in {which}, and rank {first} {ranks[first].steps}"
                # early stopping by losses of their own
                return Finding("wrong", words, stages=("validate",), remedy=_REMEDY)
    return None


_REMEDY = (
    "Where the script's own code stops it, as a callback with a clock does, let it stop after so many steps, or by a "
    "value that all ranks share:",
    "    loss = trainer.strategy.reduce(loss)  # the mean of all ranks",
)
