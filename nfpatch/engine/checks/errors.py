"""A call raises on at least one rank."""

from __future__ import annotations

from collections.abc import Sequence

from nfpatch.engine.facts import CallFacts, Finding, shortened
from nfpatch.engine.logs import is_relevant, relevant_place
from nfpatch.target.events import CallRaised

WHY = "The script ends there, unless it catches the error; the other ranks fail or hang."

# Errors on a rank whose peer has exited
CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "SIGTERM", "unexpected EOF")
# By call, the stages of the catalog's cases at which its errors are raised; SEARCHES only if the call is a search
SEARCHES = ("search", "ray-search")
STAGES: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "load", "fewer-devices"),
    "predict_insample": ("insample", "predict"),
    "cross_validation": ("cross-validation", "predict", "refit", "validate", "search", "ray-search"),
    "save": ("save", "own-callbacks"),
    "load": ("save", "load"),
    "fit": (
        *("own-callbacks", "validate", "refit", "predict", "search", "ray-search", "no-batch", "strategy-object"),
        *("fewer-devices", "cross-validation"),
    ),
}


def find(facts: CallFacts) -> Finding | None:
    """The error of the rank that failed first, and all others; `unused_parameters` handles DDP's refusals."""
    failures = failures_of(facts)
    first = next(((rank, each) for rank, each in failures if not each.is_refusal), None)
    if first is None:
        return None
    rank, failure = first
    is_the_same = len(failures) == len(facts.ranks) and len({each.message for _, each in failures}) == 1
    who = "every rank" if is_the_same else f"rank {rank}"
    place = relevant_place(failure.places)
    where = f", at {place}" if place else ""
    is_own = any(map(is_relevant, failure.places)) and not place.startswith("neuralforecast/")
    return Finding(
        "error",
        f"{who}: {shortened(failure.message)}{where}",
        stages=tuple(stage for stage in STAGES.get(facts.first.method, ()) if facts.search or stage not in SEARCHES),
        message=failure.message,
        errors=errors_in_full(failures),
        remedy=(f"The script's own code raises it, at {place}.",) if is_own else (),
    )


def failures_of(facts: CallFacts) -> list[tuple[int, CallRaised]]:
    """The failures of the ranks by time; those that are a consequence of another rank's exit come last."""
    failures = [(rank, each.raised) for rank, each in facts.ranks.items() if each.raised is not None]
    return sorted(failures, key=lambda each: (is_consequence(each[1]), facts.ranks[each[0]].end))


def is_consequence(failure: CallRaised) -> bool:
    """Whether a rank failed because another one had exited."""
    return any(words in failure.message for words in CONSEQUENCES)


def errors_in_full(failures: Sequence[tuple[int, CallRaised]]) -> tuple[str, ...]:
    """Each distinct error with its frames and the first rank that raised it."""
    errors: dict[str, str] = {}
    for rank, failure in failures:
        text = "\n".join([failure.message, *failure.places])
        errors.setdefault(text, f"rank {rank}: {text}")
    return tuple(errors.values())
