"""The ranks pass different data or options to the same call."""

from __future__ import annotations

from collections.abc import Mapping

from nfpatch.engine.facts import CallFacts, Finding

WHY = (
    "The ranks train one model together, each on its share of the same series; with data or options of its own, a rank "
    "trains a different model, or makes different forecasts."
)


def find(facts: CallFacts) -> Finding | None:
    """The first argument whose content differs between ranks."""
    words = different_data(facts)
    if words is None:
        return None
    return Finding("wrong", f"the ranks diverge here: {words}", remedy=_FOR_DATA)


def because_of_arguments(facts: CallFacts, followed: str) -> Finding | None:
    """A finding that names different arguments as the cause of `followed`; None if all ranks have the same ones."""
    data, options = different_data(facts), different_options(facts, ignore_paths=True)
    if data is None and options is None:
        return None
    words = "; ".join(each for each in (data, options) if each is not None)
    remedy = _FOR_OPTIONS if data is None else _FOR_DATA
    return Finding("wrong", f"the ranks diverge here: {words}\nas a result: {followed}", why=WHY, remedy=remedy)


def different_data(facts: CallFacts) -> str | None:
    """The first data argument that differs between ranks, as text; None if there is none."""
    return _difference({rank: each.started.data for rank, each in facts.made.items()})


def different_options(facts: CallFacts, ignore_paths: bool = False) -> str | None:
    """The first option whose value differs between ranks, as text; None if there is none."""
    options: dict[int, dict[str, str]] = {}
    for rank, each in facts.made.items():
        given = each.started.options.items()
        options[rank] = {name: value for name, value in given if not (ignore_paths and _may_be_path(name, value))}
    return _difference(options)


def _may_be_path(name: str, value: str) -> bool:
    """Whether an option may name a place to write to, which may differ between ranks."""
    return name.endswith(".default_root_dir") or ("." not in name and value[:1] in "'\"")


def _difference(given: Mapping[int, Mapping[str, str]]) -> str | None:
    first = given[min(given)] if given else {}
    for rank, each in given.items():
        for name in (*first, *each):
            if first.get(name) != each.get(name):
                return f"{name} is {first.get(name)} on rank {min(given)}, and {each.get(name)} on rank {rank}"
    return None


_FOR_DATA = (
    "Read or create the same data on every rank. Random data needs a fixed seed:",
    "    rows = frame.sample(frac=0.5, random_state=0)",
    "    numbers = numpy.random.default_rng(0).normal(size=100)",
)
_FOR_OPTIONS = (
    "Use the same value on every rank. A random value needs a fixed seed:",
    "    value = random.Random(0).choice([...])",
    "The first process passes a value from the clock to the processes that it starts (with torchrun, set it before):",
    '    value = os.environ.setdefault("MY_VALUE", str(time.time()))',
)
