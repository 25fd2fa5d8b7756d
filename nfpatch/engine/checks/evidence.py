"""A training proves nothing: it took too few steps, or its loss is not finite."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "DDP refuses unused parameters at the second step, so a shorter training proves nothing."

FEWEST_STEPS = 2


def find(facts: CallFacts) -> Finding | None:
    """Why a training of a case proves nothing. Trainings of a user's script are not checked for this."""
    if not facts.is_case:
        return None
    for ranks in facts.trainings.values():
        for rank, each in ranks.items():
            if each.steps < FEWEST_STEPS:
                words = f"{each.steps} training steps, which proves nothing; at least {FEWEST_STEPS} are needed"
                return Finding("error", f"rank {rank}: {words}")
            if not each.has_finite_loss:
                return Finding("error", f"rank {rank}: the loss is not finite")
    return None
