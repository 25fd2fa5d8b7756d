"""The ranks of a script diverge: they make different calls, or the same call with different models."""

from __future__ import annotations

import re

from nfpatch.engine.checks.errors import failures_of, is_consequence
from nfpatch.engine.facts import Call, CallFacts, Finding, in_file, shortened

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


def find(facts: CallFacts) -> Finding | None:
    """What each rank does where they diverge, and the line of the script that decides it."""
    if facts.is_case or not diverges(facts):
        return None
    ways = [f"rank {rank} {_describe(each)}" for rank, each in facts.ranks.items()]
    words = [f"the ranks diverge here: {'; '.join(ways)}"]
    decision = facts.decision
    if decision is not None:
        sides = "; ".join(f"rank {rank} {side}" for rank, side in decision.sides.items())
        words.append(f"decided at {in_file(decision.file, decision.line)}, `{decision.text}`: {sides}")
        words += decision.writers
    return Finding("wrong", "\n".join([*words, *consequences_of(facts)]), remedy=_remedy(facts))


def diverges(facts: CallFacts) -> bool:
    """Whether the ranks make different calls. A call on one rank only is fine if it returned without the others."""
    ways = {(each.name, each.line, each.started.models) for each in facts.made.values()}
    absent = [each for each in facts.ranks.values() if each.ended is not None and not each.failed_before]
    return len(ways) > 1 or (bool(absent) and not is_by_one_rank(facts))


def is_by_one_rank(facts: CallFacts) -> bool:
    """Whether a call that needs no communication was made, and returned, on some ranks only."""
    is_joint = any((training.world_size or 0) > 1 for training in facts.all_trainings)
    return len(facts.made) < len(facts.ranks) and len(facts.returned) == len(facts.made) and not is_joint


def _describe(each: Call) -> str:
    if each.ended is not None:
        return "exits without it" + (f" ({shortened(each.ended.error)})" if each.ended.error else "")
    models = f" of {', '.join(each.started.models)}" if each.started.models else ""
    return f"calls {each.name}{models} in line {each.line}" if each.name else "does not reach it"


def consequences_of(facts: CallFacts) -> list[str]:
    """The errors and hangs of the ranks, in a line; empty if there are none."""
    failures = [(rank, each) for rank, each in failures_of(facts) if not is_consequence(each)]
    followed = [f"rank {rank}: {shortened(each.message)}" for rank, each in failures]
    followed += [f"rank {rank} hangs" for rank, each in facts.made.items() if not each.is_over]
    return [f"as a result: {'; '.join(followed)}"] if followed else []


def _remedy(facts: CallFacts) -> tuple[str, ...]:
    decision = facts.decision
    exits = {rank: each.ended.error for rank, each in facts.ranks.items() if each.ended is not None}
    errors = [f"rank {rank}: {shortened(error)}" for rank, error in exits.items() if error]
    if errors:
        return (f"The script itself raises there: {'; '.join(errors)}.",)
    if decision is None:
        return ("Make the same calls on every rank.",)
    looked_at = f"{decision.text} {' '.join(decision.sides.values())}"
    if "FileExistsError" in looked_at:
        return (
            "Another rank has already created it. Accept that on every rank:",
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
