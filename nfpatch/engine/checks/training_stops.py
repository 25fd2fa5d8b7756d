"""The script stops a training on some ranks only: a callback sets `should_stop` by a value of its own rank."""

from __future__ import annotations

from nfpatch.engine.checks.diverging_calls import consequences_of
from nfpatch.engine.facts import CallFacts, Finding, base_name

WHY = "In each step the ranks exchange gradients, so a rank that leaves the training makes the others fail or hang."


def find(facts: CallFacts) -> Finding | None:
    """The first training that a rank has left, and another one has not left after as many steps."""
    for index, ranks in facts.joint_trainings.items():
        stopped = {rank: each.stopped_after for rank, each in ranks.items() if each.stopped_after is not None}
        has_ended = all(each.weights is not None for each in ranks.values())
        if not stopped or (has_ended and len({each.steps for each in ranks.values()}) == 1):
            continue
        step = min(stopped.values())
        leaving = [rank for rank in ranks if stopped.get(rank) == step]
        staying = [rank for rank in ranks if stopped.get(rank) != step]
        if not staying:
            continue
        which = f"training {index + 1}" if len(facts.trainings) > 1 else "the training"
        place = base_name(ranks[leaving[0]].stopped_by)
        who = ", ".join(map(str, leaving))
        words = [
            f"rank {who} left {which} after step {step}, and rank {', '.join(map(str, staying))} did not",
            f"decided at {place}: trainer.should_stop is set there on rank {who} only",
            *consequences_of(facts),
        ]
        return Finding("wrong", "\n".join(words), remedy=(f"Decide on all ranks together, in {place}:", *_TOGETHER))
    return None


_TOGETHER = (
    "    stop = ...  # on every rank, the condition that this rank sees",
    "    stop = trainer.strategy.reduce_boolean_decision(stop, all=False)",
    "    trainer.should_stop = trainer.should_stop or stop",
)
