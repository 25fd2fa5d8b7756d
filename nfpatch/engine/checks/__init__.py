"""The checks of `verify` and `rehearse`: modules with a function `find` that turns the facts of a call into a finding.

`WHY` says in a sentence why the finding matters to a user.

To add a check: write the module and its test, and list it in CHECKS. A call is reported with the finding of the first
check that has one, so causes are listed before their consequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType

from nfpatch.engine.checks import (
    different_data,
    diverging_calls,
    errors,
    evidence,
    forecasts,
    hangs,
    model_weights,
    reference,
    running_statistics,
    search_choice,
    series_order,
    shared_files,
    training_steps,
    training_stops,
    training_weights,
    unused_parameters,
    validation_loss,
    world_size,
)
from nfpatch.engine.facts import CallFacts, Finding

CHECKS: tuple[ModuleType, ...] = (
    diverging_calls,
    unused_parameters,
    training_stops,
    errors,
    search_choice,
    hangs,
    world_size,
    evidence,
    reference,
    series_order,
    running_statistics,
    training_steps,
    training_weights,
    validation_loss,
    model_weights,
    forecasts,
    shared_files,
    different_data,
)


def first_finding(facts: CallFacts, checks: Sequence[ModuleType] = CHECKS) -> Finding | None:
    """The finding of the first check that has one; None if no check has."""
    for check in checks:
        find: Callable[[CallFacts], Finding | None] = check.find
        found = find(facts)
        if found is not None:
            return replace(found, why=check.WHY)
    return None
