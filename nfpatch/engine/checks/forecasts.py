"""The ranks have different forecasts."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.checks.hangs import STAGES
from nfpatch.engine.facts import Answer, CallFacts, Finding

WHY = "What the script goes on with, or saves, depends on the rank."


def find(facts: CallFacts) -> Optional[Finding]:
    """The first rank whose forecasts are not those of the first rank."""
    answers = {rank: each.answers for rank, each in facts.returned.items()}
    for rank, found in answers.items():
        first = answers[min(answers)]
        is_compared = facts.is_case or (found and first)
        if is_compared and [each.digest for each in found] != [each.digest for each in first]:
            words = f"rank {rank} and rank {min(answers)} have different forecasts"
            if found and first and found[0].rows is not None:
                words += f": {described(found[0])}, and {described(first[0])}"
            return Finding("wrong", words, stages=(STAGES.get(facts.method, ""),))
    return None


def described(answer: Answer) -> str:
    """The size of a frame of forecasts."""
    return f"{answer.rows} rows, {answer.missing} numbers missing"
