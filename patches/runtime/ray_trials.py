"""A trial of a search through ray runs in one process on one device.

Lightning cannot start further processes from within an actor of ray.
"""

from __future__ import annotations

from typing import Any

import torch

# The prefixes of strategies whose processes exist only during a fit
EPHEMERAL_STRATEGIES = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def reserve_one_gpu(config: dict[str, Any], gpus: float) -> float:
    """The number of GPUs that ray reserves for a trial: at most one, unless the configuration has a strategy object."""
    return min(1, gpus) if _has_strategy_name(config) else gpus


def single_device_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with which a trial trains on one device.

    A strategy object may be one that can start processes in an actor; then the configuration is returned as it is.
    """
    if not _has_strategy_name(config):
        return config
    single = {k: v for k, v in config.items() if k != "num_nodes"}
    if single.get("devices") is not None or torch.cuda.device_count() > 1:
        single["devices"] = 1
    if str(single.get("strategy")).startswith(EPHEMERAL_STRATEGIES):
        del single["strategy"]
    return single


def _has_strategy_name(config: dict[str, Any]) -> bool:
    """Whether the strategy is a name, or Lightning chooses it."""
    return isinstance(config.get("strategy"), (str, type(None)))
