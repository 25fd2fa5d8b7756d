"""Overrides options of a script: N CPU processes on the code paths of N GPUs, fewer steps and fewer trials."""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType
from typing import Any, Callable

from ..events import OneDeviceOnly, OptionOverridden, ReferenceMade
from ..pretended.pretended_gpus import pretend
from ..trainer import single_process_arguments, without_distribution
from .recorder import EventRecorder

# Strategies that Lightning does not run on a CPU
NEEDS_GPUS = ("fsdp", "deepspeed", "bagua", "colossalai", "xla", "hpu", "model_parallel")
# Values of the trainer for all devices, and for GPUs if there are any
EVERY_DEVICE = (-1, "-1", "auto")
DEVICE_COUNTS = ("devices", "gpus", "num_processes")
ON_GPUS = (None, "auto", "gpu", "cuda")


def pretend_gpus(recorder: EventRecorder) -> None:
    """Makes Lightning, neuralforecast and the script find one GPU per process.

    torch itself and all other libraries find the real ones.
    """
    import torch

    pretend(recorder.spec.devices)
    package = os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__)))

    def is_available() -> bool:
        asker = sys._getframe(1)
        of_neuralforecast = str(asker.f_globals.get("__name__")).partition(".")[0] == "neuralforecast"
        return of_neuralforecast or not os.path.abspath(asker.f_code.co_filename).startswith(package + os.sep)

    torch.cuda.is_available = is_available


def give_ray_gpus(recorder: EventRecorder, ray: ModuleType) -> None:
    """Makes ray, if it is started here, have one GPU per process."""
    begin = ray.init

    @functools.wraps(begin)
    def init(*arguments: Any, **options: Any) -> Any:
        if not arguments and options.get("address") in (None, "local"):
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # else ray has none
            options.setdefault("num_gpus", recorder.spec.devices)
        return begin(*arguments, **options)

    ray.init = init  # type: ignore[attr-defined]


def override_devices(recorder: EventRecorder, model: Any) -> None:
    """Makes a model, the models of a search, or the model in a HINT train on all processes."""
    if is_search(model):
        shorten_search(recorder, model)
    for one in (model, getattr(model, "model", None)):
        arguments = getattr(one, "trainer_kwargs", None)
        if isinstance(arguments, dict):
            record_overrides(recorder, apply_device_overrides(recorder, arguments))


def is_search(model: Any) -> bool:
    """Whether a model is a search, one of the `Auto...` classes."""
    return hasattr(model, "num_samples") and hasattr(model, "config")


def uses_gpus(arguments: dict[str, Any]) -> bool:
    """Whether a trainer uses GPUs if there are any."""
    from pytorch_lightning import accelerators

    own = getattr(arguments.get("strategy"), "_accelerator", None)
    accelerator = arguments.get("accelerator") if own is None else own
    if accelerator is None or isinstance(accelerator, str):
        return accelerator in ON_GPUS
    return isinstance(accelerator, getattr(accelerators, "CUDAAccelerator", ()))


def is_for_one_device(strategy: Any) -> bool:
    """Whether a strategy is an object, of Lightning's or the user's class, for one device only."""
    from pytorch_lightning import strategies

    return isinstance(strategy, strategies.Strategy) and not isinstance(strategy, strategies.ParallelStrategy)


def adapt_to_strategy(arguments: dict[str, Any]) -> list[str]:
    """Removes, in place, arguments that contradict a strategy object; returns the changes in words.

    neuralforecast adds an accelerator and all devices if there are GPUs. A strategy that a trainer already uses is not
    changed.
    """
    strategy: Any = arguments.get("strategy")
    if not hasattr(strategy, "_lightning_module") or strategy._lightning_module is not None:
        return []
    changes = []
    if strategy._accelerator is not None and arguments.get("accelerator") is not None:
        other = arguments.pop("accelerator")
        changes.append(
            f"accelerator={other!r} is left out: the strategy has one, and one process is refused two as well"
        )
    if is_for_one_device(strategy):
        if arguments.setdefault("devices", 1) != 1:
            changes.append(override(arguments, "devices", 1, ", as the strategy is for one device"))
    elif getattr(strategy, "parallel_devices", None):
        changes.append("the devices of the strategy are left out")
        strategy.parallel_devices = None
    return changes


def apply_device_overrides(recorder: EventRecorder, arguments: dict[str, Any]) -> list[str]:
    """Sets, in place, the devices of a trainer to all processes; returns the changes in words.

    Accelerators that are objects, those of strategies, and strategies for one device are kept.
    """
    count = recorder.spec.devices
    accelerator = arguments.get("accelerator")
    changes = adapt_to_strategy(arguments)
    if isinstance(accelerator, str) and accelerator not in (*ON_GPUS, "cpu"):
        changes.append(f"accelerator={accelerator!r} is taken for a GPU")
        arguments["accelerator"] = "gpu"
    if is_for_one_device(arguments.get("strategy")):
        return changes
    for name in DEVICE_COUNTS:
        asked = arguments.get(name)
        is_all = not isinstance(asked, (list, tuple)) and asked in EVERY_DEVICE and uses_gpus(arguments)
        if asked not in (None, count) and not is_all:
            changes.append(override(arguments, name, count))
    if "devices" not in arguments and "gpus" not in arguments:
        arguments["devices"] = count
    if arguments.get("num_nodes", 1) != 1:
        changes.append(override(arguments, "num_nodes", 1))
    return changes


def override(arguments: dict[str, Any], name: str, value: object, reason: str = "") -> str:
    """Sets an argument of a trainer; returns the change in words."""
    change = f"{name}={arguments.get(name)!r} is {value!r}{reason}"
    arguments[name] = value
    return change


def shorten_search(recorder: EventRecorder, model: Any) -> None:
    """Limits the trials of a search, and sets the devices in its configuration to all processes."""
    trials, config = recorder.spec.trials, model.config
    if trials is not None and isinstance(model.num_samples, int) and model.num_samples > trials:
        record_overrides(recorder, [f"num_samples={model.num_samples} is {trials}"])
        model.num_samples = trials
    if isinstance(config, dict):
        if "devices" in config:
            record_overrides(recorder, apply_device_overrides(recorder, config))
    elif callable(config) and not hasattr(config, "is_rehearsed"):

        def configured(trial: Any) -> Any:
            chosen = config(trial)
            if "devices" in chosen:
                record_overrides(recorder, apply_device_overrides(recorder, chosen))
            return chosen

        configured.is_rehearsed = True  # type: ignore[attr-defined]
        model.config = configured


def record_overrides(recorder: EventRecorder, changes: list[str]) -> None:
    """Records changes, except for those to trainers of a single-process reference."""
    for what in changes if not recorder.is_reference_run else ():
        recorder.write(OptionOverridden(what))


def shorten(recorder: EventRecorder, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a trainer, changed for a rehearsal. Raises ValueError for a strategy that requires GPUs."""
    shorter = dict(arguments)
    changes = adapt_to_strategy(shorter)
    refuse_gpu_strategy(shorter.get("strategy"))
    steps = recorder.spec.max_steps
    if steps is not None:
        asked = shorter.get("max_steps")
        if asked is None or not 0 <= asked <= steps:
            changes.append(override(shorter, "max_steps", steps))
        if isinstance(shorter.get("min_steps"), int) and shorter["min_steps"] > steps:
            shorter["min_steps"] = steps
        every = shorter.get("val_check_interval")
        if isinstance(every, int) and not isinstance(every, bool) and every > steps:
            changes.append(override(shorter, "val_check_interval", steps))
    if str(shorter.get("precision", 32)).startswith("16"):
        changes.append(override(shorter, "precision", 32, ", as the CPU has no such"))
    if shorter.get("sync_batchnorm"):
        changes.append("sync_batchnorm is off, as the CPU has none")
        shorter["sync_batchnorm"] = False
    strategy: Any = shorter.get("strategy")
    if is_for_one_device(strategy) and not recorder.is_reference_run:
        number, _ = recorder.place()
        recorder.write(OneDeviceOnly(number, type(strategy).__name__))
    if getattr(strategy, "_process_group_backend", None) not in (None, "gloo"):
        changes.append(f"process_group_backend={strategy._process_group_backend!r} is 'gloo'")
        strategy._process_group_backend = "gloo"
    record_overrides(recorder, changes)
    return shorter


def refuse_gpu_strategy(strategy: Any) -> None:
    """Raises ValueError for a strategy that requires GPUs."""
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if any(word in name.lower() for word in NEEDS_GPUS):
        raise ValueError(f"strategy {name} needs GPUs, so that it cannot be rehearsed on the CPU")


def reference_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a trainer for a single-process reference, which writes no files."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
    return {**without_distribution(arguments, single_process_arguments()), **quiet}


def record_one_device_error(
    recorder: EventRecorder, trainer: Any, begin: Callable[..., None], arguments: dict[str, Any]
) -> None:
    """Records the exception for one GPU of a trainer that cannot be created for several devices."""
    own = {name: value for name, value in arguments.items() if name != "strategy" or not isinstance(value, str)}
    for name in DEVICE_COUNTS:
        if own.get(name) == recorder.spec.devices:
            own[name] = 1
    number, _ = recorder.place()
    with recorder.catch_reference_error(ReferenceMade(number, needs_gpus=True)):
        begin(trainer.__new__(trainer), **own)


def wrap_trainer(recorder: EventRecorder, trainer: Any, watcher: Callable[[], Any]) -> None:
    """Makes each trainer of neuralforecast a shortened and observed one, or one of a single-process reference."""
    begin = trainer.__init__

    @functools.wraps(begin)
    def __init__(self: Any, *positional: Any, **arguments: Any) -> None:
        if not recorder.depth:
            begin(self, *positional, **arguments)
            return
        arguments = shorten(recorder, arguments)
        if recorder.is_reference_run:
            begin(self, *positional, **reference_arguments(arguments))
            return
        try:
            begin(self, *positional, **arguments)
        except Exception:
            if recorder.is_main and recorder.rank == 0:
                record_one_device_error(recorder, trainer, begin, arguments)
            raise
        # a new list, because Lightning has added its callbacks to that of the user, which must stay as it is
        self.callbacks = [watcher(), *self.callbacks]

    trainer.__init__ = __init__
