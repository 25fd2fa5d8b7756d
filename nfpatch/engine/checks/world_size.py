"""The world size or the backend of a training is not the requested one."""

from __future__ import annotations

from nfpatch.console import pluralize
from nfpatch.engine.facts import CallFacts, Finding

WHY = "Additional devices give no speed-up."


def find(facts: CallFacts) -> Finding | None:
    """The mismatch: of the largest training of a script (its trials may be single-process), or of a rank of a case."""
    trainings = [(rank, each) for ranks in facts.trainings.values() for rank, each in ranks.items()]
    if not facts.is_case:
        size = max((each.world_size or 0 for _, each in trainings), default=0)
        if size in (0, facts.world_size) or (size == 1 and facts.one_device):
            return None
        words = f"trained on {pluralize(size, 'process', 'processes')} instead of {facts.world_size}"
        return Finding("wrong", words, remedy=_REMEDY)
    expected = (facts.world_size, facts.backend)
    for rank, each in trainings:
        if (each.world_size, each.backend) != expected:
            return Finding(
                "error",
                f"rank {rank}: torch reports world size {each.world_size} and backend {each.backend} "
                f"instead of {expected[0]} and {expected[1]}",
            )
    return None


_REMEDY = (
    "Give the model all devices, and a strategy for several:",
    '    NHITS(..., accelerator="gpu", devices=-1, strategy="ddp")',
)
