"""The ranks give one call different data, so that they learn from, or forecast, something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding

WHY = (
    "The ranks train one model together, each on its share of the same series; with data or options of its own, a rank "
    "contributes to another model, or forecasts something else."
)


def find(facts: CallFacts) -> Optional[Finding]:
    """The first argument whose content is not the same on all ranks."""
    words = different_data(facts)
    if words is None:
        return None
    return Finding("wrong", f"the ranks part here: {words}", remedy=_FOR_DATA)


def because_of_arguments(facts: CallFacts, followed: str) -> Optional[Finding]:
    """The different data or options of a call, as the cause of what `followed`; None if all ranks have the same."""
    data, options = different_data(facts), _difference(_options_of(facts, is_harmless))
    if data is None and options is None:
        return None
    words = "; ".join(each for each in (data, options) if each is not None)
    remedy = _FOR_OPTIONS if data is None else _FOR_DATA
    return Finding("wrong", f"the ranks part here: {words}\nwhat follows: {followed}", why=WHY, remedy=remedy)


def different_data(facts: CallFacts) -> Optional[str]:
    """The first of the data that is not the same on all ranks, in words; None if there is none."""
    return _difference({rank: each.data for rank, each in facts.ranks.items() if each.name})


def different_options(facts: CallFacts) -> Optional[str]:
    """The first option that has another value on some rank, in words; None if there is none."""
    return _difference(_options_of(facts, lambda name, value: False))


def is_harmless(name: str, value: str) -> bool:
    """Whether ranks may have different values of an option: of the places to which they write."""
    return name.endswith(".default_root_dir") or ("." not in name and value[:1] in "'\"")


def _options_of(facts: CallFacts, is_left_out: Callable[[str, str], bool]) -> dict[int, dict[str, str]]:
    return {
        rank: {name: value for name, value in each.options.items() if not is_left_out(name, value)}
        for rank, each in facts.ranks.items()
        if each.name
    }


def _difference(given: Mapping[int, Mapping[str, str]]) -> Optional[str]:
    first = given[min(given)] if given else {}
    for rank, each in given.items():
        for name in (*first, *each):
            if first.get(name) != each.get(name):
                return f"{name} is {first.get(name)} on rank {min(given)}, and {each.get(name)} on rank {rank}"
    return None


_FOR_DATA = (
    "Read or make the same data on every rank. What is drawn at random needs a fixed seed:",
    "    rows = frame.sample(frac=0.5, random_state=0)",
    "    numbers = numpy.random.default_rng(0).normal(size=100)",
)
_FOR_OPTIONS = (
    "Give every rank the same value. What is drawn at random needs a fixed seed:",
    "    value = random.Random(0).choice([...])",
    "What is taken from the clock, the first process hands on to those that it starts (with torchrun, set it before):",
    '    value = os.environ.setdefault("MY_VALUE", str(time.time()))',
)
