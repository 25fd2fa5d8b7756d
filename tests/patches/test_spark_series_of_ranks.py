"""On Spark each rank reads its own series, and no partition has a part of one."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

CORE = "neuralforecast/core.py"
DATASET = "neuralforecast/tsdataset.py"

DATASET_BEFORE = """
import torch


class _DistributedTimeSeriesDataModule(TimeSeriesDataModule):
    def setup(self, stage):
        df = pd.read_parquet(self.files_ds.files[dist.get_rank()])
"""

DATASET_AFTER = """
from neuralforecast._nfpatch import spark
import torch


class _DistributedTimeSeriesDataModule(TimeSeriesDataModule):
    def setup(self, stage):
        df = spark.read_own_series(self)
"""

CORE_BEFORE = """
import torch


class NeuralForecast:
    def _predict_distributed(self, df, static_df, **kwargs):
        if repartition:
            df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)

    def _simulate_distributed(self, df, static_df, **kwargs):
        if repartition:
            df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)
"""

CORE_AFTER = """
from neuralforecast._nfpatch import spark
import torch


class NeuralForecast:
    def _predict_distributed(self, df, static_df, **kwargs):
        df = spark.partition_by_series(df, self.models, self.id_col)

    def _simulate_distributed(self, df, static_df, **kwargs):
        df = spark.partition_by_series(df, self.models, self.id_col)
"""

BEFORE_1_7_2 = """
import torch


class NeuralForecast:
    def predict(self, df, static_df, **kwargs):
        needed_futr_exog = self._get_needed_futr_exog()
        if isinstance(df, SparkDataFrame) or (
            df is None and isinstance(getattr(self, "dataset", None), _FilesDataset)
        ):
            import fugue.api as fa
"""

AFTER_1_7_2 = """
from neuralforecast._nfpatch import spark
import torch


class NeuralForecast:
    def predict(self, df, static_df, **kwargs):
        df = spark.read_whole_series(self, df, engine)
        needed_futr_exog = self._get_needed_futr_exog()
        if isinstance(df, SparkDataFrame) or (
            df is None and isinstance(getattr(self, "dataset", None), _FilesDataset)
        ):
            import fugue.api as fa
"""


def test_ranks_read_whole_series() -> None:
    assert patched("spark-series-of-ranks", "3.3.0", DATASET_BEFORE, DATASET) == DATASET_AFTER
    assert patched("spark-series-of-ranks", "3.3.0", CORE_BEFORE, CORE) == CORE_AFTER


def test_releases_before_1_7_3_repartition_what_was_passed() -> None:
    assert patched("spark-series-of-ranks", "1.7.2", BEFORE_1_7_2, CORE) == AFTER_1_7_2


def test_a_rank_that_reads_another_file_is_refused() -> None:
    twin = DATASET_BEFORE.replace("dist.get_rank()", "dist.get_rank() + 1")
    with pytest.raises(CodemodRefused):
        patched("spark-series-of-ranks", "3.3.0", twin, DATASET)
