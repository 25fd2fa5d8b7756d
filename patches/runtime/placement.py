"""The devices on which a model predicts, and on which a loaded model continues its training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

import torch

from . import compat

# The variables in which launchers pass the local rank to a process
LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
GPU_ACCELERATORS = (None, "auto", "gpu", "cuda")


def single_device_kwargs(trainer_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a trainer with which this process works by itself, see `single_device_changes`."""
    return {**trainer_kwargs, **single_device_changes(trainer_kwargs)}


def single_device_changes(trainer_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The changes to the arguments of a trainer with which this process works by itself.

    With several processes, Lightning returns to each only the predictions of its own shard of the series. So each
    predicts all of them, on its own device, or on any device if the model comes from a machine with more devices.
    There are no changes if the arguments are for one process. Nothing is communicated.
    """
    n_gpus = _count_gpus(trainer_kwargs)
    devices = _list_devices(trainer_kwargs, n_gpus)
    if len(devices) < 2 and trainer_kwargs.get("num_nodes", 1) == 1:
        return {}
    own = [_choose_gpu(devices, n_gpus)] if n_gpus else 1
    former: dict[str, Any] = dict.fromkeys(compat.former_device_arguments())
    return {**former, "devices": own, "strategy": compat.default_strategy(), "num_nodes": 1}


def clamp_devices(models: Iterable[Any]) -> None:
    """Limit the devices of loaded models to the GPUs of this machine, with a warning.

    Too many GPUs are an error in a new model, but their number in a loaded model comes from another machine. Changes
    the `trainer_kwargs` of the models. If a model is saved again, the file keeps the original number.
    """
    for model in models:
        own = getattr(model, "model", None)  # the model inside HINT; TimesNet and PatchTST have layers of this name
        _clamp_devices_of(own if hasattr(own, "trainer_kwargs") else model)


def _clamp_devices_of(model: Any) -> None:
    trainer_kwargs: dict[str, Any] = model.trainer_kwargs
    n_gpus = _count_gpus(trainer_kwargs)
    if n_gpus == 0:
        return
    has_gpus = bool(trainer_kwargs.get("gpus")) and "gpus" in compat.former_device_arguments()
    requested = trainer_kwargs["gpus"] if has_gpus else trainer_kwargs.get("devices")
    clamped = _clamp(requested, n_gpus)
    if clamped is None:
        return
    warnings.warn(
        f"{type(model).__name__} was saved with devices={requested}, and there are {n_gpus} GPUs here: "
        f"it is trained further with devices={clamped}.",
        stacklevel=4,
    )
    trainer_kwargs.pop("gpus", None)
    trainer_kwargs["devices"] = clamped
    is_one_device = clamped == 1 or (isinstance(clamped, list) and len(clamped) == 1)
    if is_one_device and trainer_kwargs.get("num_nodes", 1) == 1:
        trainer_kwargs.pop("strategy", None)


def _clamp(requested: Any, n_gpus: int) -> Optional[Union[int, list[int]]]:
    """Those of the requested devices that exist; None if all of them do, or if any number is accepted."""
    if isinstance(requested, str) and "," in requested:
        requested = requested.split(",")
    if isinstance(requested, (list, tuple)):
        indices = [int(device) for device in requested if str(device).strip()]
        present = [device for device in indices if device < n_gpus] or [0]
        return None if present == indices else present
    if str(requested).isdigit() and int(requested) > n_gpus:
        return n_gpus
    return None


def _count_gpus(trainer_kwargs: Mapping[str, Any]) -> int:
    """The number of GPUs that a trainer can use here; 0 for other accelerators."""
    return torch.cuda.device_count() if trainer_kwargs.get("accelerator") in GPU_ACCELERATORS else 0


def _list_devices(trainer_kwargs: Mapping[str, Any], n_gpus: int) -> Sequence[int]:
    """The devices of one machine that a trainer with these arguments uses; none if Lightning chooses one CPU."""
    names: tuple[str, ...] = (*compat.former_device_arguments(), "devices")
    given = [trainer_kwargs[name] for name in names if trainer_kwargs.get(name)]
    devices = given[0] if given else trainer_kwargs.get("devices")
    if devices in (None, "auto", -1, "-1"):
        return range(n_gpus)
    if isinstance(devices, str) and "," in devices:
        return [int(device) for device in devices.split(",") if device.strip()]
    if isinstance(devices, (int, str)):
        return range(int(devices))
    indices: Sequence[int] = devices
    return indices


def _choose_gpu(devices: Sequence[int], n_gpus: int) -> int:
    """The GPU of this process: its own one of the devices if it exists, else any."""
    ranks = [os.environ[name] for name in LOCAL_RANK_VARIABLES if name in os.environ]
    local_rank = int(ranks[0]) if ranks else 0
    own = devices[local_rank % len(devices)] if devices else local_rank
    return own if own < n_gpus else local_rank % n_gpus
