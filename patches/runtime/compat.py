"""Differences between releases of Lightning, torch and neuralforecast, detected by feature.

The other runtime modules call these functions instead of comparing versions.
"""

from __future__ import annotations

import inspect
from typing import Any, Optional

import pytorch_lightning as pl


def attached_trainer(model: Any) -> Optional[Any]:
    """The trainer that a model is attached to; None if there is none.

    Lightning 1.6 keeps it as `trainer`; Lightning 2 keeps it as `_trainer`, and raises if `trainer` is read without
    one. neuralforecast removes the attribute after a training.
    """
    attributes = vars(model)
    return attributes.get("_trainer") or attributes.get("trainer")


def default_callback_classes() -> tuple[type, ...]:
    """The base classes of the callbacks that a trainer adds to those it is given.

    Lightning 1.6 names the base class of all progress bars `ProgressBarBase`, Lightning 2 `ProgressBar`.
    """
    callbacks: Any = pl.callbacks
    progress_bar = getattr(callbacks, "ProgressBarBase", None) or callbacks.ProgressBar
    return (progress_bar, callbacks.ModelCheckpoint, callbacks.ModelSummary)


def is_train_loss_reduced(model: Any) -> bool:
    """Whether the logged training loss of a model is the mean over the ranks.

    It is if early stopping monitors it (`val_monitor`, since neuralforecast 3.1.6), so that all ranks stop at the
    same step. It is not on Spark, whose data module has files: there the ranks have different numbers of batches, so
    that none can wait for another within an epoch.
    """
    is_monitored = getattr(model, "val_monitor", None) == "train_loss"
    return is_monitored and not has_files_of_rank(model.trainer.datamodule)


def has_ephemeral_launcher(trainer: Any) -> bool:
    """Whether the processes of a trainer exist only during a fit: those of ddp_spawn, ddp_fork and ddp_notebook.

    The class of their launcher has "Spawn" in its name in Lightning 1.6, "MultiProcessing" in 2.
    """
    launcher = type(getattr(trainer.strategy, "launcher", None)).__name__
    return "MultiProcessing" in launcher or "Spawn" in launcher


def forking_launcher(trainer: Any) -> Optional[Any]:
    """The launcher that forks the processes of a trainer (ddp_fork, ddp_notebook); None if there is none.

    Lightning 1.6 forks no processes.
    """
    launcher = getattr(trainer.strategy, "launcher", None)
    is_forking = getattr(launcher, "_start_method", "") == "fork" and hasattr(launcher, "_wrapping_function")
    return launcher if is_forking else None


def train_loader(trainer: Any) -> Any:
    """The loader that a trainer trains on, after Lightning has replaced its sampler, if it does.

    Lightning 2 has it as `train_dataloader`, Lightning 1.6 as the `loaders` of a `CombinedLoader` there. None before
    the training, and if there are several loaders.
    """
    loader = getattr(trainer, "train_dataloader", None)
    loader = getattr(loader, "loaders", loader)
    return loader if hasattr(loader, "sampler") else None


def has_files_of_rank(datamodule: Any) -> bool:
    """Whether each rank has a data module with files of its own, as on Spark."""
    return hasattr(datamodule, "files_ds")


def former_device_arguments() -> tuple[str, ...]:
    """The arguments of `Trainer` that override `devices`: `num_processes` and `gpus` in Lightning 1.6, none in 2."""
    parameters = inspect.signature(pl.Trainer.__init__).parameters
    return tuple(name for name in ("num_processes", "gpus") if name in parameters)


def default_strategy() -> Optional[str]:
    """The default of `Trainer`'s strategy: None in Lightning 1.6, "auto" in 2."""
    default: Optional[str] = inspect.signature(pl.Trainer.__init__).parameters["strategy"].default
    return default


def validation_loader(trainer: Any) -> Any:
    """The first loader of the validation that runs in a trainer.

    Lightning 1.6 has a list of the loaders, Lightning 2 combines them.
    """
    loop = trainer._evaluation_loop
    loaders = loop.dataloaders if hasattr(loop, "dataloaders") else loop._combined_loader.flattened
    return loaders[0]


def move_batch(trainer: Any, batch: Any) -> Any:
    """The batch as a step of the trainer gets it: on its device, and in its precision."""
    if hasattr(trainer.precision_plugin, "convert_input"):  # since Lightning 2
        batch = trainer.precision_plugin.convert_input(batch)
    if hasattr(trainer.lightning_module, "_on_before_batch_transfer"):  # since Lightning 2
        batch = trainer.lightning_module._on_before_batch_transfer(batch)
    return trainer.strategy.batch_to_device(batch)


def compute_epoch_metrics(trainer: Any) -> None:
    """Compute the metrics logged for this epoch, unless they are reduced over the ranks.

    After an epoch Lightning 1.6 reduces all metrics that are not computed yet, Lightning 2 only `sync_dist` ones.
    """
    for metric in trainer._results.result_metrics:
        if metric.is_tensor and metric.meta.on_epoch and not metric.meta.sync.should:
            metric.compute()
