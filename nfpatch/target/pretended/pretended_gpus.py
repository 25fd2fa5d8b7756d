"""Makes Lightning and neuralforecast find GPUs, each of which is the CPU: for their code paths, without CUDA."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any, Callable
from unittest import mock


def pretend(count: int) -> Callable[[], None]:
    """Makes Lightning find `count` GPUs, or those in CUDA_VISIBLE_DEVICES; returns a function that undoes it."""
    import torch
    from pytorch_lightning import accelerators
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    def gpus() -> int:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # ray sets it for an actor
        return len(visible.split(",")) if visible else count

    def parsed(devices: Any) -> list[int]:
        if isinstance(devices, (list, tuple)):
            return list(devices)
        asked = list(range(gpus() if devices in (-1, "-1", "auto") else int(devices)))
        if len(asked) > gpus():
            raise MisconfigurationException(f"You requested gpu: {asked}. But your machine only has: {gpus()}")
        return asked

    def nothing(*arguments: Any) -> dict[str, Any]:
        return {}

    changes: list[tuple[Any, str, Any]] = [(torch.cuda, "device_count", gpus)]
    accelerator = getattr(accelerators, "CUDAAccelerator", None)
    if accelerator is None:  # Lightning before 1.7, where neuralforecast uses torch's function
        accelerator = accelerators.GPUAccelerator
        changes.append((torch.cuda, "is_available", lambda: True))
    own = {
        "is_available": staticmethod(lambda: True),
        "auto_device_count": staticmethod(gpus),
        "parse_devices": staticmethod(parsed),
        "get_parallel_devices": staticmethod(lambda devices: [torch.device("cpu")] * len(devices)),
        **dict.fromkeys(("setup_device", "setup_environment", "setup", "teardown", "get_device_stats"), nothing),
    }
    changes += [(accelerator, name, instead) for name, instead in own.items()]
    patches = ExitStack()
    for owner, name, instead in changes:
        patches.enter_context(mock.patch.object(owner, name, instead, create=True))
    return patches.close
