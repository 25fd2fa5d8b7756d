"""A second fit on Spark starts from the weights of the model."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"

MODEL_BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        val_check_interval = min(self.val_check_steps, self.max_steps)
"""

MODEL_AFTER = """
from neuralforecast._nfpatch import spark
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if not is_local:
            spark.attach_weights(self, datamodule)
        val_check_interval = min(self.val_check_steps, self.max_steps)
"""

DATASET_BEFORE = """
import torch


class _DistributedTimeSeriesDataModule(TimeSeriesDataModule):
    def setup(self, stage):
        import torch.distributed as dist
"""

DATASET_AFTER = """
from neuralforecast._nfpatch import spark
import torch


class _DistributedTimeSeriesDataModule(TimeSeriesDataModule):
    def setup(self, stage):
        spark.load_weights(self)
        import torch.distributed as dist
"""


def test_the_weights_are_sent_with_the_data() -> None:
    assert patched("spark-fit-from-weights", "3.3.0", MODEL_BEFORE, MODEL) == MODEL_AFTER
    assert patched("spark-fit-from-weights", "3.3.0", DATASET_BEFORE, DATASET) == DATASET_AFTER


def test_a_data_module_that_imports_something_else_is_refused() -> None:
    twin = DATASET_BEFORE.replace("import torch.distributed as dist", "import torch.distributed")
    with pytest.raises(CodemodRefused):
        patched("spark-fit-from-weights", "3.3.0", twin, DATASET)
