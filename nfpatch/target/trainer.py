"""Arguments of Lightning's trainer: the processes and devices to train on, and that nothing is written to disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .events import CaseSpec, TrainSpec
from .observing import Observation, make_recorder
from .session import Session
from .source import numbers_of, release
from .world import RankInfo, local_rank

STRATEGY_NAME = "nfpatch-ddp"
# By launcher: what Lightning calls the strategy. `ddp_notebook` is an alias of `ddp_fork`.
STRATEGIES = {"torchrun": "ddp", "script": "ddp", "spawn": "ddp_spawn", "fork": "ddp_notebook"}
# Releases before this one put a TQDMProgressBar into the trainer, which contradicts `enable_progress_bar=False`.
FIRST_RELEASE_WITHOUT_PROGRESS_BAR = (1, 7)


def trainer_arguments(case: CaseSpec, session: Session) -> dict[str, Any]:
    """The arguments for the strategy of a case, with the observing callback.

    They are those that a user passes, unless processes share a GPU, which Lightning does not support.
    """
    spec, find_unused_parameters = session.spec, case.strategy == "find-unused-ddp"
    if case.strategy == "single-process":
        placement = single_process_arguments(spec.accelerator)
    elif spec.accelerator == "gpu" and session.backend == "gloo":
        placement = arguments_sharing_gpus(spec, find_unused_parameters)
    else:
        placement = ddp_arguments(spec, find_unused_parameters)
    return {**placement, **quiet_arguments(session.observation)}


def ddp_arguments(spec: TrainSpec, find_unused_parameters: bool = False) -> dict[str, Any]:
    """What a user passes to train by DDP in the processes that this launcher makes."""
    import pytorch_lightning

    if spec.launcher == "spark":  # neuralforecast passes their number to Spark and to Lightning
        return {"accelerator": spec.accelerator}
    strategy = STRATEGIES[spec.launcher]
    # Lightning 1 looks for unused parameters by default, and so hides the bug; Lightning 2 does not
    if (numbers_of(pytorch_lightning.__version__) >= (2, 0)) == find_unused_parameters:
        strategy += f"_find_unused_parameters_{str(find_unused_parameters).lower()}"
    return {
        "accelerator": spec.accelerator,
        "devices": spec.devices,
        "num_nodes": spec.world_size // spec.devices,
        "strategy": strategy,
    }


def quiet_arguments(observation: Observation) -> dict[str, Any]:
    """The observing callback, and what makes a training write nothing to disk."""
    arguments: dict[str, Any] = {
        "callbacks": [make_recorder(observation)],
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    if numbers_of(release()) >= FIRST_RELEASE_WITHOUT_PROGRESS_BAR:
        arguments["enable_progress_bar"] = False
    return arguments


def arguments_sharing_gpus(spec: TrainSpec, find_unused_parameters: bool) -> dict[str, Any]:
    """What makes Lightning train by DDP in processes that share GPUs.

    Each process is a node with one device to Lightning, which does not let two processes of a node share a GPU: it
    refuses a list that names one twice, and takes the local rank as an index into the list.

    The strategy is registered by a name, because a strategy object serves only one trainer, and some releases pass it
    to several.
    """
    from pytorch_lightning.plugins.environments import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

    class NodeOfOneDevice(TorchElasticEnvironment):
        def local_rank(self) -> int:
            return 0

    StrategyRegistry.register(
        STRATEGY_NAME,
        DDPStrategy,
        override=True,
        find_unused_parameters=find_unused_parameters,
        process_group_backend="gloo",
    )
    return {
        "accelerator": spec.accelerator,
        "devices": own_device(spec.accelerator),
        "num_nodes": spec.world_size,
        "strategy": STRATEGY_NAME,
        "plugins": [NodeOfOneDevice()],
    }


def single_process_arguments(accelerator: str = "cpu") -> dict[str, Any]:
    """What makes Lightning work in this process alone, whatever launched it."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    return {
        "accelerator": accelerator,
        "devices": own_device(accelerator),
        "plugins": [LightningEnvironment()],
    }


def without_distribution(arguments: dict[str, Any], placement: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a training for several processes, changed to this `placement` in a single one."""
    training_only = ("strategy", "num_nodes", "callbacks", "gpus", "num_processes", "plugins")
    return {**{name: value for name, value in arguments.items() if name not in training_only}, **placement}


def own_device(accelerator: str) -> int | list[int]:
    """The one device of this process, as Lightning's trainer takes it."""
    import torch

    return 1 if accelerator == "cpu" else [gpu_of(local_rank(), torch.cuda.device_count())]


def gpu_of(local_rank: int, gpus: int) -> int:
    """The GPU of a process: its own if there are enough, else shared in turn."""
    return local_rank % gpus


def backend_for(accelerator: str, ranks: Sequence[RankInfo]) -> str:
    """The backend of the process group: gloo if two processes share a GPU on any node, because nccl refuses that."""
    has_gpu_for_each = accelerator == "gpu" and all(rank.processes <= (rank.gpus or 0) for rank in ranks)
    return "nccl" if has_gpu_for_each else "gloo"
