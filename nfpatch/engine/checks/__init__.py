"""The checks of `verify` and `rehearse`: modules with one function, `find`, from the facts of a call to a finding.

To add one: write the module and its test, and name it in CHECKS. The first that finds something is what a call is
reported with, so a cause stands before what may follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Optional

from nfpatch.engine.checks import (
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
    unused_parameters,
    errors,
    search_choice,
    hangs,
    parting_calls,
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
)


def first_finding(facts: CallFacts, checks: Sequence[ModuleType] = CHECKS) -> Optional[Finding]:
    """What the first of the checks finds that finds something; None if none does."""
    finds: list[Callable[[CallFacts], Optional[Finding]]] = [check.find for check in checks]
    return next((found for found in (find(facts) for find in finds) if found is not None), None)
