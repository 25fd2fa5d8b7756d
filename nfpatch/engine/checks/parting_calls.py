"""The ranks of a script diverge: they make different calls, or the same call with different models."""

from __future__ import annotations

import re
from typing import Optional

from nfpatch.engine.checks.errors import failures_of, is_consequence
from nfpatch.engine.facts import Call, CallFacts, Decision, Finding, in_file, shortened

WHY = (
    "In each step of a training the ranks exchange gradients, so every rank must make the same calls, in the same "
    "order, with the same models and data. A rank that does not makes the others fail, hang, or train the wrong model."
)
# What a condition depends on, by the words in it
_FILES = re.compile(r"exists|does not exist|is_?file|is_?dir|listdir|glob|has \d+ entries")
_RANKS = re.compile(r"rank|environ|getenv", re.IGNORECASE)
_SAME_VALUE = (
    "Let one process decide. With Lightning's launcher the first process starts the others, which inherit its "
    "environment (with torchrun, set the variable before):",
    "    # before the first fit, in place of ...",
    '    choice = os.environ.setdefault("MY_CHOICE", str(...))',
)


def find(facts: CallFacts) -> Optional[Finding]:
    """What each rank does where they diverge, and the line of the script that decides it."""
    if facts.is_case or not parts(facts):
        return None
    words = [f"the ranks diverge here: {'; '.join(f'rank {rank} {_way(each)}' for rank, each in facts.ranks.items())}"]
    if facts.decision is not None:
        words += _decision_in_words(facts.decision)
    return Finding("wrong", "\n".join([*words, *what_follows(facts)]), remedy=_remedy(facts))


def parts(facts: CallFacts) -> bool:
    """Whether the ranks make different calls. A call on one rank only is fine if it returned without the others."""
    ways = {(each.name, each.line, each.started.models) for each in facts.ranks.values() if each.name}
    absent = [each for each in facts.ranks.values() if not each.name and each.has_ended and not each.failed_before]
    return len(ways) > 1 or (bool(absent) and not is_by_one_rank(facts))


def is_by_one_rank(facts: CallFacts) -> bool:
    """Whether a call that needs no communication was made, and returned, on some ranks only."""
    made = [each for each in facts.ranks.values() if each.name]
    together = any((training.world_size or 0) > 1 for training in facts.all_trainings)
    return len(made) < len(facts.ranks) and all(each.returned for each in made) and not together


def _way(each: Call) -> str:
    if not each.name and not each.has_ended:
        return "does not come to it"
    if not each.name:
        return f"ends without it ({shortened(each.error)})" if each.error else "ends without it"
    models = f" of {', '.join(each.started.models)}" if each.started.models else ""
    return f"calls {each.name}{models} in line {each.line}"


def _decision_in_words(decision: Decision) -> list[str]:
    sides = "; ".join(f"rank {rank} {side}" for rank, side in decision.sides.items())
    place = in_file(decision.file, decision.line)
    return [f"decided at {place}, `{decision.text}`: {sides}", *decision.writers]


def what_follows(facts: CallFacts) -> list[str]:
    """What the ranks raise or wait for because of it, in a line; none if they do not."""
    failures = [(rank, each.message) for rank, each in failures_of(facts) if not is_consequence(each)]
    waiting = [rank for rank, each in facts.ranks.items() if each.name and not each.is_over]
    followed = [f"rank {rank}: {shortened(message)}" for rank, message in failures]
    followed += [f"rank {rank} hangs" for rank in waiting]
    return [f"as a result: {'; '.join(followed)}"] if followed else []


def _remedy(facts: CallFacts) -> tuple[str, ...]:
    decision = facts.decision
    errors = [f"rank {rank}: {shortened(each.error)}" for rank, each in facts.ranks.items() if each.error]
    if errors and not all(each.error for each in facts.ranks.values()):
        return ("The script itself raises there: " + "; ".join(errors) + ".",)
    if decision is None:
        return ("Make the same calls on every rank.",)
    looked_at = f"{decision.text} {' '.join(decision.sides.values())}"
    if "FileExistsError" in looked_at:
        return (
            "Another rank has made it already. Let it be there on every rank:",
            "    os.makedirs(folder, exist_ok=True)",
        )
    if _FILES.search(looked_at):
        return (
            "Do not write a file that another rank may still look for: write it on one rank, after a call on all:",
            '    if os.environ.get("LOCAL_RANK", "0") == "0":',
            "        ...  # write the file here, after fit",
        )
    if _RANKS.search(looked_at):
        return ("Make the call on every rank; restrict only code that does not call neuralforecast to one rank.",)
    return _SAME_VALUE
