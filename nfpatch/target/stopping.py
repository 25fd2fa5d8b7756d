"""Early stopping on every rank: at the same step, and at the one at which one process stops with the same losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .models import EARLY_STOPPING, trained_model_of
from .outcomes import Differs
from .script import Script

STEPS_TO_STOP_IN = 20


def stop_early(script: Script) -> None:
    """Early stopping: all ranks at the step at which one process stops with these losses."""
    forecaster = script.made(script.together, max_steps=STEPS_TO_STOP_IN, val_check_steps=1, learning_rate=1.0)
    add_early_stopping(trained_model_of(forecaster))
    script.evidence_now.validated = ()
    script.fit(forecaster)
    losses: list[float] = list(script.evidence_now.validated)
    steps = script.evidence_now.steps
    for rank, other in enumerate(script.gathered({"losses": losses, "steps": steps})):
        if other["losses"] != losses:
            others = other["losses"]
            raise Differs(f"early stopping goes by the losses {losses}, and on rank {rank} by {others}")
        if other["steps"] != steps:
            raise Differs(f"stopped after {steps} steps, and rank {rank} after {other['steps']}")
    expected = stops_after(losses, script.case.options[EARLY_STOPPING])
    if len(losses) != expected or steps != expected:
        raise Differs(f"stopped after {steps} steps, where one process with the losses {losses} stops after {expected}")


def add_early_stopping(model: Any) -> None:
    """Makes a model stop early where its release does not add to callbacks that it is given, as before 1.7.1."""
    from pytorch_lightning.callbacks import EarlyStopping

    callbacks = model.trainer_kwargs["callbacks"]
    if not any(isinstance(callback, EarlyStopping) for callback in callbacks):
        callbacks.append(EarlyStopping(monitor="ptl/val_loss", patience=model.early_stop_patience_steps))


def stops_after(losses: Sequence[float], patience: int) -> int | None:
    """After how many losses `EarlyStopping(patience)` of Lightning stops; None where these do not make it stop."""
    best, others = math.inf, 0
    for number, loss in enumerate(losses, 1):
        best, others = (loss, 0) if loss < best else (best, others + 1)
        if others >= patience or not math.isfinite(loss):
            return number
    return None
