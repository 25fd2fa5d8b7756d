"""After a training, the ranks have different weights."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "The ranks no longer train one model: forecasts and saved files depend on the rank."


def find(facts: CallFacts) -> Finding | None:
    """The first training of all ranks after which their weights differ."""
    for index, ranks in facts.trainings.items():
        which = "" if len(facts.trainings) == 1 else f" of training {index + 1}, {ranks[min(ranks)].model},"
        weights = {each.weights for each in ranks.values()}
        if not facts.is_case:  # every rank of a case reports its weights
            weights.discard(None)
            if len(ranks) != facts.world_size or index not in facts.joint_trainings:
                continue
        if len(weights) > 1 or None in weights:
            words = f"the weights{which} differ between ranks"
            return Finding("wrong", words, stages=(facts.search or "refit",))
    return None
