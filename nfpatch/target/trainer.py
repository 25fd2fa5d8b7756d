"""Arguments of Lightning's trainer: over which processes to train, on which device, and nothing left on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .events import CaseSpec, RankInfo, TrainSpec
from .observing import Observation, recorder
from .session import Session
from .source import numbers_of
from .world import local_rank

STRATEGY_NAME = "nfpatch-ddp"
# By launcher: what Lightning calls the strategy. As notebooks fork, `ddp_notebook` is `ddp_fork` by another name.
STRATEGIES = {"torchrun": "ddp", "script": "ddp", "spawn": "ddp_spawn", "fork": "ddp_notebook"}
# Releases before this one put a TQDMProgressBar into the trainer, which contradicts `enable_progress_bar=False`.
FIRST_RELEASE_WITHOUT_PROGRESS_BAR = (1, 7)


def trainer_arguments(case: CaseSpec, session: Session) -> dict[str, Any]:
    """Arguments for Lightning's trainer: the strategy of the case, observed, and nothing written to disk.

    They are those that a user passes, but where processes share a GPU, which Lightning does not let them.
    """
    spec, backend, find_unused_parameters = session.spec, session.backend, case.strategy == "find-unused-ddp"
    if case.strategy == "single-process":
        placement = arguments_alone(spec.accelerator)
    elif spec.accelerator == "gpu" and backend == "gloo":
        placement = arguments_sharing_gpus(spec, backend, find_unused_parameters)
    else:
        placement = arguments_together(spec, find_unused_parameters)
    return {**placement, **quiet_arguments(session.release, session.observation)}


def script_arguments(session: Session) -> dict[str, Any]:
    """The arguments of a user's script, observed, and nothing written to disk."""
    return {**arguments_together(session.spec), **quiet_arguments(session.release, session.observation)}


def arguments_together(spec: TrainSpec, find_unused_parameters: bool = False) -> dict[str, Any]:
    """What a user passes to Lightning so that it trains by DDP, in the processes that this launcher makes."""
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


def arguments_less_processes(arguments: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, for one process that works `alone`, by those arguments."""
    training_only = ("strategy", "num_nodes", "callbacks", "gpus", "num_processes", "plugins")
    return {**{name: value for name, value in arguments.items() if name not in training_only}, **alone}


def quiet_arguments(release: str, observation: Observation) -> dict[str, Any]:
    """What lets the callback look on, and leaves nothing on disk."""
    arguments: dict[str, Any] = {
        "callbacks": [recorder(observation)],
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    if numbers_of(release) >= FIRST_RELEASE_WITHOUT_PROGRESS_BAR:
        arguments["enable_progress_bar"] = False
    return arguments


def arguments_sharing_gpus(spec: TrainSpec, backend: str, find_unused_parameters: bool) -> dict[str, Any]:
    """What makes Lightning train by DDP over processes that share GPUs.

    To Lightning each process is a node with one device. It would not let two processes of a node share a GPU: it
    refuses a list that names one twice, and takes the local rank for an index into the list.

    The strategy goes by a name: a strategy object serves one trainer, and some releases hand it to several.
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
        # Asked for by name, because Lightning 1 looks for unused parameters by default and so hides the bug.
        find_unused_parameters=find_unused_parameters,
        process_group_backend=backend,
    )
    return {
        "accelerator": spec.accelerator,
        "devices": own_device(spec.accelerator),
        "num_nodes": spec.world_size,
        "strategy": STRATEGY_NAME,
        "plugins": [NodeOfOneDevice()],
    }


def arguments_alone(accelerator: str = "cpu") -> dict[str, Any]:
    """What makes Lightning work in this process alone, whatever launched it."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    return {
        "accelerator": accelerator,
        "devices": own_device(accelerator),
        "plugins": [LightningEnvironment()],
    }


def own_device(accelerator: str) -> int | list[int]:
    """The one device of this process, as Lightning's trainer takes it."""
    import torch

    return 1 if accelerator == "cpu" else [gpu_of(local_rank(), torch.cuda.device_count())]


def gpu_of(local_rank: int, gpus: int) -> int:
    """The GPU of a process: one of its own as long as there are enough, then shared in turn."""
    return local_rank % gpus


def backend_for(accelerator: str, ranks: Sequence[RankInfo]) -> str:
    """The backend of the process group, by what the ranks say of themselves, as `assembled` returns it.

    nccl refuses two processes on one GPU, gloo does not mind; and one backend has to serve all nodes.
    """
    has_gpu_for_each = accelerator == "gpu" and all(rank.processes <= (rank.gpus or 0) for rank in ranks)
    return "nccl" if has_gpu_for_each else "gloo"
