"""The checks of `verify` and `rehearse`: modules with a function `find`, from the facts of a call to a finding.

`WHY` says in a sentence why what it finds matters to a user.

To add one: write the module and its test, and name it in CHECKS. The first that finds something is what a call is
reported with, so a cause stands before what may follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Optional

from nfpatch.engine.checks import (
    different_data,
    errors,
    evidence,
    forecasts,
    hangs,
    model_weights,
    parting_calls,
    reference,
    running_statistics,
    search_choice,
    series_order,
    shared_files,
    training_steps,
    training_weights,
    unused_parameters,
    validation_loss,
    world_size,
)
from nfpatch.engine.facts import CallFacts, Finding

CHECKS: tuple[ModuleType, ...] = (
    parting_calls,
    unused_parameters,
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


def first_finding(facts: CallFacts, checks: Sequence[ModuleType] = CHECKS) -> Optional[Finding]:
    """What the first of the checks finds that finds something; None if none does."""
    for check in checks:
        find: Callable[[CallFacts], Optional[Finding]] = check.find
        found = find(facts)
        if found is not None:
            return replace(found, why=check.WHY)
    return None
