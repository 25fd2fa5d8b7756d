"""Differences between the releases of Lightning, decided by what is there."""

from __future__ import annotations

import inspect
from typing import Any, Optional

import pytorch_lightning as pl


def attached_trainer(model: Any) -> Any:
    """The trainer that a model is attached to; None if there is none.

    Lightning 2 raises where a model without a trainer is asked for it; Lightning 1.6 has the trainer itself there.
    """
    return model._trainer if hasattr(model, "_trainer") else model.trainer


def former_device_arguments() -> tuple[str, ...]:
    """The arguments of `Trainer` that win over `devices`: `num_processes` and `gpus` in Lightning 1.6, none in 2."""
    parameters = inspect.signature(pl.Trainer.__init__).parameters
    return tuple(name for name in ("num_processes", "gpus") if name in parameters)


def default_strategy() -> Optional[str]:
    """What `Trainer` takes as its strategy if none is given: None in Lightning 1.6, "auto" in 2."""
    default: Optional[str] = inspect.signature(pl.Trainer.__init__).parameters["strategy"].default
    return default
