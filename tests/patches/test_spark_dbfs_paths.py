"""Files on DBFS are named as pandas can read them."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
def _dbfs_path_for_pandas(path: str) -> str:
    if os.path.isdir("/dbfs"):
        return fuse_path
    return path
"""

AFTER = """
def _dbfs_path_for_pandas(path: str) -> str:
    if os.path.isdir("/dbfs"):
        return fuse_path
    return f"dbfs://{rest}"
"""

BEFORE_3_2_0 = """
import torch


class NeuralForecast:
    def _prepare_fit_distributed(self, df, static_df, **kwargs):
        files = [
            f"{protocol}://{file}"
            for file in fs.ls(distributed_config.partitions_path)
            if file.endswith("parquet")
        ]
"""

AFTER_3_2_0 = """
from neuralforecast._nfpatch import spark
import torch


class NeuralForecast:
    def _prepare_fit_distributed(self, df, static_df, **kwargs):
        files = spark.list_parquet_files(
            fs, protocol, distributed_config.partitions_path
        )
"""

BEFORE_1_7_2 = """
import torch


class NeuralForecast:
    def fit(self, df, static_df, **kwargs):
        if isinstance(df, (pd.DataFrame, pl_DataFrame)):
            pass
        elif isinstance(df, SparkDataFrame):
            files = [
                f"{protocol}://{file}"
                for file in fs.ls(distributed_config.partitions_path)
                if file.endswith("parquet")
            ]
"""

AFTER_1_7_2 = """
from neuralforecast._nfpatch import spark
import torch


class NeuralForecast:
    def fit(self, df, static_df, **kwargs):
        if isinstance(df, (pd.DataFrame, pl_DataFrame)):
            pass
        elif isinstance(df, SparkDataFrame):
            files = spark.list_parquet_files(
                fs, protocol, distributed_config.partitions_path
            )
"""


def test_without_a_mount_the_path_keeps_its_protocol() -> None:
    assert patched("spark-dbfs-paths", "3.3.0", BEFORE) == AFTER


def test_releases_before_3_2_1_list_the_files_in_a_method() -> None:
    assert patched("spark-dbfs-paths", "3.2.0", BEFORE_3_2_0) == AFTER_3_2_0


def test_releases_before_1_7_3_list_them_in_fit() -> None:
    assert patched("spark-dbfs-paths", "1.7.2", BEFORE_1_7_2) == AFTER_1_7_2


def test_a_path_that_is_converted_is_refused() -> None:
    twin = BEFORE.replace("    return path", "    return str(path)")
    with pytest.raises(CodemodRefused):
        patched("spark-dbfs-paths", "3.3.0", twin)
