"""The script stops a training on some ranks only: a callback sets `should_stop` by a value of its own rank."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.checks.parting_calls import what_follows
from nfpatch.engine.facts import CallFacts, Finding, in_file

WHY = "In each step the ranks exchange gradients, so a rank that leaves the training makes the others fail or hang."


def find(facts: CallFacts) -> Optional[Finding]:
    """The first training that a rank has left, and another one has not left after as many steps."""
    for index, ranks in facts.trainings.items():
        stopped = {rank: each.stopped_after for rank, each in ranks.items() if each.stopped_after is not None}
        is_together = all((each.world_size or 0) > 1 for each in ranks.values())
        is_whole = len({each.steps for each in ranks.values() if each.weights is not None}) == 1
        is_whole = is_whole and all(each.weights is not None for each in ranks.values())
        if not stopped or not is_together or is_whole:
            continue
        first = min(stopped, key=lambda rank: stopped[rank])
        staying = [rank for rank in ranks if stopped.get(rank) != stopped[first]]
        if not staying:
            continue
        which = f"training {index + 1}" if len(facts.trainings) > 1 else "the training"
        file, _, line = ranks[first].stopped_by.rpartition(":")
        place = in_file(file, int(line))
        words = [
            f"rank {first} left {which} after step {stopped[first]}, and rank {', '.join(map(str, staying))} did not",
            f"decided at {place}: trainer.should_stop is set there on rank {first} only",
            *what_follows(facts),
        ]
        return Finding("wrong", "\n".join(words), remedy=(f"Decide on all ranks together, in {place}:", *_TOGETHER))
    return None


_TOGETHER = (
    "    stop = ...  # on every rank, the condition that this rank sees",
    "    trainer.should_stop = trainer.strategy.reduce_boolean_decision(stop, all=False)",
)
