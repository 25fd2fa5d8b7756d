"""The ranks have different forecasts."""

from __future__ import annotations

from nfpatch.engine.checks.hangs import STAGES
from nfpatch.engine.facts import CallFacts, Finding
from nfpatch.target.events import Frame

WHY = "The results that the script uses or saves depend on the rank."


def find(facts: CallFacts) -> Finding | None:
    """The first rank whose forecasts differ from those of rank 0."""
    answers = {rank: each.forecasts for rank, each in facts.returned.items()}
    for rank, actual in answers.items():
        first = answers[min(answers)]
        is_compared = facts.is_case or (actual and first)
        if is_compared and [each.digest for each in actual] != [each.digest for each in first]:
            words = f"rank {rank} and rank {min(answers)} have different forecasts"
            if actual and first:
                words += f": {described(actual[0])}, and {described(first[0])}"
            return Finding("wrong", words, stages=(STAGES.get(facts.first.method, ""),))
    return None


def described(frame: Frame) -> str:
    """The size of a frame of forecasts."""
    return f"{frame.rows} rows, {frame.nan} numbers missing"
