"""Copies strategy objects, because each works for one trainer only, and a model is trained by many."""

from __future__ import annotations

from copy import deepcopy
from typing import Any


def with_fresh_strategy(trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a trainer, with a copy of the strategy if it is an object.

    Lightning rejects a strategy that another trainer had, so the original must never be passed to a trainer.
    """
    strategy = trainer_kwargs.get("strategy")
    if strategy is None or isinstance(strategy, str):
        return trainer_kwargs
    return {**trainer_kwargs, "strategy": deepcopy(strategy)}
