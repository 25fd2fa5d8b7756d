"""A validation loss differs between ranks, or from the single-process reference."""

from __future__ import annotations

from collections.abc import Sequence

from nfpatch.engine.facts import CallFacts, Finding

WHY = "Early stopping, checkpoints and searches depend on this loss."

# A validation loss is a sum over series, and the order of summation may differ.
TOLERANCE = 1e-5
STAGES = ("validate",)


def find(facts: CallFacts) -> Finding | None:
    """The first training whose losses differ."""
    for index, ranks in facts.joint_trainings.items():
        which = "" if len(facts.trainings) == 1 else f" of training {index + 1}, {ranks[min(ranks)].model},"
        losses = {rank: each.validated for rank, each in ranks.items() if each.validated}
        if not losses:
            continue
        first = losses[min(losses)]
        for rank, actual in losses.items():
            if not are_close(actual, first):
                words = f"is {first[-1]:.6g} on rank {min(losses)}, and {actual[-1]:.6g} on rank {rank}"
                return Finding("wrong", f"the validation loss{which} {words}", stages=STAGES)
        for expected in (each.validation for each in facts.references if each.index == index):
            if expected is not None and not are_close(first[-1:], [expected]):
                words = f"is {first[-1]:.6g}, and {expected:.6g} in the single-process reference"
                return Finding("wrong", f"the validation loss{which} {words}", stages=STAGES)
    return None


def are_close(actual: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether the losses are equal up to rounding."""
    return len(actual) == len(expected) and all(
        one == other or (one != one and other != other) or abs(one - other) <= TOLERANCE * abs(other)
        for one, other in zip(actual, expected)
    )
