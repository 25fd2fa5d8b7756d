from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from patches.runtime import spark
from patches.runtime.ranks import RankGroup

ROWS = 2


class Listing:
    """A file system that lists files as dictionaries, or as names on request."""

    def ls(self, path: str, detail: bool = True) -> list[Any]:
        names = [f"{path}/{name}" for name in ("_SUCCESS", "part-0.parquet", "part-1.parquet")]
        return [{"name": name} for name in names] if detail else names


def test_parquet_files_are_listed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts: list[str] = []
    monkeypatch.setattr(fsspec, "filesystem", lambda protocol: SimpleNamespace(isdir=mounts.__contains__))
    listed = [f"{prefix}/files/part-{n}.parquet" for prefix in ("dbfs://", "file:///dbfs", "s3://") for n in range(2)]
    assert spark.list_parquet_files(Listing(), "dbfs", "/files") == listed[:2]
    mounts.append("/dbfs")
    assert spark.list_parquet_files(Listing(), "dbfs", "/files") == listed[2:4]
    assert spark.list_parquet_files(Listing(), "s3", "/files") == listed[4:]


def files_of(folder: Path, *tasks: tuple[str, ...]) -> list[str]:
    """Files as Spark tasks write them, each with some of the series; two if there are at least two series."""
    by_task: list[list[str]] = []
    for number, ids in enumerate(tasks):
        by_task.append([])
        for part, some in enumerate(part for part in (ids[:1], ids[1:]) if part):
            path = folder / f"part-{number:05}-{part}.parquet"
            pd.DataFrame({"unique_id": np.repeat(some, ROWS), "y": 1.0}).to_parquet(path)
            by_task[-1].append(str(path))
    return [path for paths in reversed(by_task) for path in paths]


def datamodule(files: list[str], is_multivariate: bool = False) -> Any:
    module = SimpleNamespace(MULTIVARIATE=True) if is_multivariate else SimpleNamespace()
    dataset = SimpleNamespace(files=files, id_col="unique_id")
    return SimpleNamespace(files_ds=dataset, trainer=SimpleNamespace(lightning_module=module))


def series_by_rank(world_size: int, data: Any) -> list[list[str]]:
    """The series of each rank, checked to be complete."""
    found = []
    for rank in range(world_size):
        frame = spark.read_own_series(data, group=RankGroup(rank, world_size, None))
        assert set(frame["unique_id"].value_counts()) == {ROWS}
        assert frame.index.tolist() == list(range(len(frame)))
        found.append(sorted(frame["unique_id"].unique()))
    return found


@pytest.mark.parametrize(
    ("tasks", "world_size", "series"),
    [
        ([("a",), ("b", "c")], 2, [["a"], ["b", "c"]]),
        ([("a",), ("b", "c"), ("d",)], 2, [["a", "d"], ["b", "c"]]),
        ([("a", "b", "c")], 2, [["a", "c"], ["b"]]),
        ([("a",)], 2, [["a"], ["a"]]),
        ([("a",), ("b", "c")], 3, [["a"], ["b", "c"], ["a"]]),
        ([("a", "b"), ("c", "d")], 4, [["a"], ["c"], ["b"], ["d"]]),
    ],
)
def test_each_rank_gets_whole_series(
    tasks: list[tuple[str, ...]], world_size: int, series: list[list[str]], tmp_path: Path
) -> None:
    assert series_by_rank(world_size, datamodule(files_of(tmp_path, *tasks))) == series


def test_each_rank_gets_all_series_of_a_multivariate_model(tmp_path: Path) -> None:
    data = datamodule(files_of(tmp_path, ("a",), ("b", "c")), is_multivariate=True)
    assert series_by_rank(2, data) == [["a", "b", "c"]] * 2


def test_one_process_gets_all_series(tmp_path: Path) -> None:
    frame = spark.read_own_series(datamodule(files_of(tmp_path, ("a",), ("b", "c"))))
    assert frame["unique_id"].unique().tolist() == ["a", "b", "c"]


def test_a_file_that_spark_did_not_name_is_a_separate_task() -> None:
    assert spark.files_by_task(
        ["s3://x/b.parquet", "s3://x/part-00001-c0.parquet", "s3://x/part-00001-c1.parquet"]
    ) == [
        ["s3://x/part-00001-c0.parquet", "s3://x/part-00001-c1.parquet"],
        ["s3://x/b.parquet"],
    ]


class SparkFrame:
    """The methods of a Spark DataFrame that the hooks call."""

    rdd = SimpleNamespace(getNumPartitions=lambda: 4)

    def repartition(self, number: int) -> Any:
        return ("in one", number)

    def repartitionByRange(self, number: int, column: str) -> Any:
        return ("by range", number, column)


SparkFrame.__module__ = "pyspark.sql.dataframe"
UNIVARIATE, WINDOWS = SimpleNamespace(MULTIVARIATE=False), SimpleNamespace(SAMPLING_TYPE="windows")
ALL_SERIES = [
    SimpleNamespace(MULTIVARIATE=True),
    SimpleNamespace(SAMPLING_TYPE="multivariate"),
    SimpleNamespace(SAMPLING_TYPE="windows", S=np.eye(2)),
]


def test_partitions_have_whole_series() -> None:
    assert spark.partition_by_series(SparkFrame(), [UNIVARIATE, WINDOWS], "id") == ("by range", 4, "id")
    for model in ALL_SERIES:
        assert spark.partition_by_series(SparkFrame(), [UNIVARIATE, model], "id") == ("in one", 1)


def test_files_stored_by_spark_are_read_as_whole_series() -> None:
    engine = SimpleNamespace(read=SimpleNamespace(parquet=lambda *files: files))
    on_spark = SimpleNamespace(models=[WINDOWS], dataset=SimpleNamespace(files=["a", "b"]))
    local = SimpleNamespace(models=[ALL_SERIES[1]], dataset=SimpleNamespace())
    assert spark.read_whole_series(on_spark, None, engine) == ("a", "b")
    assert spark.read_whole_series(on_spark, None, None) is None
    frame, pandas_frame = SparkFrame(), pd.DataFrame()
    assert spark.read_whole_series(on_spark, frame, engine) is frame
    assert spark.read_whole_series(local, pandas_frame, None) is pandas_frame
    assert spark.read_whole_series(local, None, None) is None
    assert spark.read_whole_series(SimpleNamespace(models=[ALL_SERIES[1]]), None, None) is None


@pytest.mark.parametrize("frame", [SparkFrame(), None], ids=["passed", "stored"])
@pytest.mark.parametrize("model", ALL_SERIES[1:])
def test_models_that_need_all_series_raise_where_partitions_are_forecast(
    model: Any, frame: Optional[SparkFrame]
) -> None:
    forecaster = SimpleNamespace(models=[WINDOWS, model], dataset=SimpleNamespace(files=["a"]))
    with pytest.raises(ValueError, match="Spark"):
        spark.read_whole_series(forecaster, frame, None)


STRATEGY = object()


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ({}, "ddp"),
        ({"strategy": None}, "ddp"),
        ({"strategy": "auto"}, "ddp"),
        ({"strategy": "fsdp"}, "fsdp"),
        ({"strategy": "ddp_notebook"}, "ddp"),
        ({"strategy": "ddp_fork_find_unused_parameters_true"}, "ddp_find_unused_parameters_true"),
        ({"strategy": "ddp_spawn", "use_distributed_sampler": True}, "ddp"),
        ({"strategy": STRATEGY, "use_distributed_sampler": False}, STRATEGY),
    ],
)
def test_the_users_strategy_is_kept_without_its_launcher(given: dict[str, Any], strategy: Any) -> None:
    trainer_kwargs = {"accelerator": "cpu", **given}
    assert spark.pop_strategy(trainer_kwargs) == strategy
    assert trainer_kwargs == {"accelerator": "cpu"}


class Model(nn.Module):
    """A model whose weights depend only on its options, as those of neuralforecast on `random_seed`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hparams = {"size": size}
        self.layer = nn.Linear(size, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.ones_(self.layer.bias)


def test_weights_are_sent_if_they_differ_from_the_initial_ones() -> None:
    data, model = SimpleNamespace(), Model(2)
    spark.attach_weights(model, data)
    assert not hasattr(data, "weights")
    with torch.no_grad():
        model.layer.bias.add_(1)
    spark.attach_weights(model, data)
    data.trainer = SimpleNamespace(lightning_module=Model(2))
    spark.load_weights(data)
    assert data.trainer.lightning_module.layer.bias.item() == 2
    spark.load_weights(SimpleNamespace())


def validated_model(n_series: int, on_spark: bool = True) -> Any:
    """A model after a validation of this number of series, on one of two ranks with 1 and 3 series."""
    data = SimpleNamespace(dataset=SimpleNamespace(n_groups=n_series))
    if on_spark:
        data.files_ds = None
    losses = [torch.tensor(2.0), torch.tensor(4.0)]
    return SimpleNamespace(
        device="cpu",
        trainer=SimpleNamespace(datamodule=data),
        all_gather=lambda tensor: torch.tensor([1.0, 3.0]),
        validation_step_outputs=losses,
    )


@pytest.mark.parametrize(("n_series", "losses"), [(1, [1.0, 2.0]), (3, [3.0, 6.0])])
def test_a_rank_has_the_weight_of_its_series(n_series: int, losses: list[float]) -> None:
    model = validated_model(n_series)
    spark.weight_validation_losses(model)
    assert [loss.item() for loss in model.validation_step_outputs] == losses


def test_losses_are_not_weighted_without_spark() -> None:
    model = validated_model(3, on_spark=False)
    spark.weight_validation_losses(model)
    assert [loss.item() for loss in model.validation_step_outputs] == [2.0, 4.0]
