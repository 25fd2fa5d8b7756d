"""What differs between the releases of Lightning and torch, decided by what is there."""

from __future__ import annotations

from typing import Any

# Launchers whose processes exist during a fit only: of ddp_spawn, ddp_fork and ddp_notebook in Lightning 2 and 1.7, of
# ddp_spawn in Lightning 1.6
EPHEMERAL_LAUNCHERS = ("MultiProcessing", "Spawn")


def has_ephemeral_launcher(trainer: Any) -> bool:
    """Whether the processes of this trainer exist during a fit only."""
    launcher = getattr(trainer.strategy, "launcher", None)
    return any(name in type(launcher).__name__ for name in EPHEMERAL_LAUNCHERS)


def attached_trainer(model: Any) -> Any:
    """The trainer of a Lightning module, or None; the property `trainer` of Lightning 2 raises where there is none."""
    return model._trainer if hasattr(model, "_trainer") else model.trainer
