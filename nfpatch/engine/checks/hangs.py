"""A call hangs on some ranks, or some ranks never reach it."""

from __future__ import annotations

from nfpatch.engine.facts import CallFacts, Finding

WHY = "On the GPUs the script hangs there, until the timeout of the process group (half an hour by default)."

# By call, the stage of the catalog's cases that shows its hang
STAGES = {
    "predict": "load",  # and predict, which alone also shows how multivariate models have been trained
    "predict_insample": "insample",
    "cross_validation": "cross-validation",
    "save": "save",
    "load": "save",
}


def find(facts: CallFacts) -> Finding | None:
    """The ranks that have not completed the call, and where they are."""
    waiting = {
        rank: each
        for rank, each in facts.ranks.items()
        if not each.is_over and (each.name or each.failed_before or not each.has_gone_on)
    }
    if not waiting:
        return None
    absent = {rank: each.failed_before for rank, each in waiting.items() if not each.name}
    if absent and all(absent.values()):
        words = "; ".join(f"rank {rank} raised in {name}" for rank, name in absent.items())
        return Finding("timeout", f"not called on all ranks: {words}", is_consequence=True)
    ways = []
    for rank, each in waiting.items():
        how, where = ("hangs", " in ") if each.name else ("never reached this call", ": it is in ")
        ways.append(f"rank {rank} {how}{where + each.place if each.place else ''}")
    reason = f" ({facts.ended})" if facts.ended else ""
    stage = facts.search or STAGES.get(facts.first.method, "")
    return Finding("timeout", "; ".join(ways) + reason, stages=(stage,))
