"""Early stopping on every rank: at the same step, and at the one at which one process stops with the same losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .observing import OBSERVED
from .outcomes import Differs
from .script import Script

PATIENCE = "early_stop_patience_steps"
STEPS_TO_STOP_IN = 20


def stop_early(script: Script) -> None:
    """Early stopping: all ranks at the step at which one process stops with these losses."""
    forecaster = script.made(script.together, max_steps=STEPS_TO_STOP_IN, val_check_steps=1, learning_rate=1.0)
    OBSERVED["validated"] = []
    script.fit(forecaster)
    losses, steps = list(OBSERVED["validated"]), OBSERVED["steps"]
    for rank, told in enumerate(script.gathered({"losses": losses, "steps": steps})):
        if told["losses"] != losses:
            raise Differs(f"the losses that decide on early stopping are {losses}, and those of rank {rank} {told}")
        if told["steps"] != steps:
            raise Differs(f"stopped after {steps} steps, and rank {rank} after {told['steps']}")
    due = stops_after(losses, script.case["options"][PATIENCE])
    if len(losses) != due or steps != due:
        raise Differs(f"stopped after {steps} steps, where one process with the losses {losses} stops after {due}")


def stops_after(losses: Sequence[float], patience: int) -> int | None:
    """After how many losses `EarlyStopping(patience)` of Lightning stops; None where these do not make it stop."""
    best, others = math.inf, 0
    for number, loss in enumerate(losses, 1):
        best, others = (loss, 0) if loss < best else (best, others + 1)
        if others >= patience or not math.isfinite(loss):
            return number
    return None
