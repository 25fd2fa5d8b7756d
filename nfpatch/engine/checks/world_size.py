"""A training runs in another number of processes, or with another backend, than was asked for."""

from __future__ import annotations

from typing import Optional

from nfpatch.console import pluralize
from nfpatch.engine.facts import CallFacts, Finding

WHY = "Further devices make the training no faster."


def find(facts: CallFacts) -> Optional[Finding]:
    """The mismatch: of the widest training of a script, whose trials may train alone, or of each rank of a case."""
    trainings = [(rank, each) for ranks in facts.trainings.values() for rank, each in ranks.items()]
    if not facts.is_case:
        size = max((each.world_size or 0 for _, each in trainings), default=0)
        if size == 1 and facts.one_device:
            return None
        if size and size != facts.world_size:
            words = f"trained on {pluralize(size, 'process', 'processes')}, and not on {facts.world_size}"
            return Finding("wrong", words, remedy=_REMEDY)
        return None
    expected = (facts.world_size, facts.backend)
    for rank, each in trainings:
        if (each.world_size, each.backend) != expected:
            return Finding(
                "error",
                f"rank {rank}: torch reports world size {each.world_size} and backend {each.backend} "
                f"where {expected[0]} and {expected[1]} were asked for",
            )
    return None


_REMEDY = (
    "Give the model all devices, and a strategy for several:",
    '    NHITS(..., accelerator="gpu", devices=-1, strategy="ddp")',
)
