"""The ranks take different numbers of steps in a training."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "The other ranks hang waiting for the gradients of a rank that stops early, or have different weights afterwards."


def find(facts: CallFacts) -> Finding | None:
    """The first training, completed on all ranks, in which a rank took fewer or more steps than rank 0."""
    for index, ranks in facts.joint_trainings.items():
        if any(each.weights is None for each in ranks.values()):
            continue
        first = min(ranks)
        for rank, each in ranks.items():
            if each.steps != ranks[first].steps:
                which = f"training {index + 1}" if len(facts.trainings) > 1 else "the training"
                words = f"rank {rank} took {each.steps} steps in {which}, and rank {first} {ranks[first].steps}"
                # early stopping by rank-local losses
                return Finding("wrong", words, stages=("validate",), remedy=_REMEDY)
    return None


_REMEDY = (
    "If the script's own code stops it, for example a callback with a time limit, stop after a number of steps, or by "
    "a value that all ranks share:",
    "    loss = trainer.strategy.reduce(loss)  # the mean of all ranks",
)
