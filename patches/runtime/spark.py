"""Training and prediction on Spark: the series of each rank and each partition, and the arguments of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Optional

import torch

from .ranks import RankGroup, current_group

# Parts of the names of strategies that start processes, which Spark has already started
PROCESS_WORDS = ("_spawn", "_fork", "_notebook")


def list_parquet_files(fs: Any, protocol: str, folder: str) -> list[str]:
    """The parquet files in a folder of a file system of fsspec, as pandas can read them.

    Files on DBFS are read from its mount if there is one, which needs no token.
    """
    import fsspec  # type: ignore[import-untyped]

    prefix = f"{protocol}://"
    if protocol == "dbfs" and fsspec.filesystem("file").isdir("/dbfs"):
        prefix = "file:///dbfs"
    return [prefix + file for file in fs.ls(folder, detail=False) if file.endswith("parquet")]


def read_own_series(datamodule: Any, group: Optional[RankGroup] = None) -> Any:
    """The series of this rank, as a pandas DataFrame; of a multivariate model all series.

    Uses rank and world size, but neither store nor collective call.
    """
    import pandas as pd  # type: ignore[import-untyped]

    group = current_group() if group is None else group
    rank, world_size = (0, 1) if group is None else (group.rank, group.world_size)
    dataset = datamodule.files_ds
    if getattr(datamodule.trainer.lightning_module, "MULTIVARIATE", False):
        return pd.concat(map(pd.read_parquet, dataset.files), ignore_index=True)
    tasks = files_by_task(dataset.files)
    if len(tasks) >= world_size:
        files = [file for task in tasks[rank::world_size] for file in task]
        return pd.concat(map(pd.read_parquet, files), ignore_index=True)
    # Several ranks share the series of a task, and each has one at least
    frame = pd.concat(map(pd.read_parquet, tasks[rank % len(tasks)]), ignore_index=True)
    ids = frame[dataset.id_col].unique()
    number_of_ranks = len(range(rank % len(tasks), world_size, len(tasks)))
    first = rank // len(tasks)
    own_ids = ids[first::number_of_ranks] if first < len(ids) else ids[[first % len(ids)]]
    return frame[frame[dataset.id_col].isin(own_ids)].reset_index(drop=True)


def files_by_task(files: Sequence[str]) -> list[list[str]]:
    """The files that each Spark task has written: none, one or several, but with all rows of its series."""
    by_task: dict[str, list[str]] = {}
    for file in files:
        name = file.rsplit("/", 1)[-1]
        task = name.split("-")[1] if name.startswith("part-") else name
        by_task.setdefault(task, []).append(file)
    return [by_task[task] for task in sorted(by_task)]


def partition_by_series(frame: Any, models: Sequence[Any], id_col: str) -> Any:
    """A Spark DataFrame in whose partitions all series are whole; in one partition if the models need all series.

    Data that was read from files is repartitioned, too, because a series may be in several files.
    """
    if any(map(needs_all_series, models)):
        return frame.repartition(1)
    return frame.repartitionByRange(frame.rdd.getNumPartitions(), id_col)


def needs_all_series(model: Any) -> bool:
    """Whether a forecast depends on other series: of a multivariate model, or of HINT, whose forecasts add up."""
    is_multivariate = getattr(model, "MULTIVARIATE", False) or getattr(model, "SAMPLING_TYPE", "") == "multivariate"
    return is_multivariate or hasattr(model, "S")


def read_whole_series(forecaster: Any, frame: Any, engine: Any) -> Any:
    """The frame that Spark forecasts, for releases up to 1.7.2; a frame that is not Spark's is returned unchanged.

    These repartition only a frame that is passed, so the files of a fit are read here. Raises ValueError for models
    that need all series, as these releases forecast each partition by itself.
    """
    files = getattr(getattr(forecaster, "dataset", None), "files", [])
    is_stored_on_spark = frame is None and bool(files)
    if not is_stored_on_spark and not type(frame).__module__.startswith("pyspark."):
        return frame
    if any(map(needs_all_series, forecaster.models)):
        raise ValueError(
            "Spark predicts the series in parts, and some of these models forecast each from all of them. "
            "Pass a pandas or polars DataFrame as `df`."
        )
    return frame if engine is None or not is_stored_on_spark else engine.read.parquet(*files)


def pop_strategy(trainer_kwargs: dict[str, Any]) -> Any:
    """The strategy of a trainer on Spark, "ddp" unless another is named.

    It is removed from the arguments, like `use_distributed_sampler`: neuralforecast passes both itself.
    """
    trainer_kwargs.pop("use_distributed_sampler", None)
    strategy = trainer_kwargs.pop("strategy", None)
    if strategy is None or strategy == "auto":
        return "ddp"
    if isinstance(strategy, str):
        for word in PROCESS_WORDS:
            strategy = strategy.replace(word, "")
    return strategy


def attach_weights(model: Any, datamodule: Any) -> None:
    """Attach the weights of a model to the datamodule if they changed since the model was constructed.

    The processes of a fit construct the model again, so its initial weights need not be sent.
    """
    initial = type(model)(**deepcopy(dict(model.hparams))).state_dict()
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if any(not torch.equal(tensor, initial[name].cpu()) for name, tensor in weights.items()):
        datamodule.weights = weights


def load_weights(datamodule: Any) -> None:
    """Load the attached weights into the model of this process, if there are any."""
    if hasattr(datamodule, "weights"):
        datamodule.trainer.lightning_module.load_state_dict(datamodule.weights)


def weight_validation_losses(model: Any) -> None:
    """Multiply the validation losses of this rank by its share of the series, as the mean over ranks is logged.

    On Spark only, where ranks validate different numbers of series. Collective: one `all_gather`.
    """
    datamodule = model.trainer.datamodule
    if not hasattr(datamodule, "files_ds"):
        return
    n_series = torch.tensor(float(datamodule.dataset.n_groups), device=model.device)
    weight = n_series / model.all_gather(n_series).mean()
    model.validation_step_outputs = [loss * weight for loss in model.validation_step_outputs]
