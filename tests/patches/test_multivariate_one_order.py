"""Multivariate models see their series in the order of the data."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

DATASET = "neuralforecast/tsdataset.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"

BEFORE = """
class BaseModel(pl.LightningModule):
    def fit(self, dataset, val_size, **kwargs):
        return self._fit(
            dataset=dataset,
            batch_size=self.batch_size,
            valid_batch_size=self.valid_batch_size,
            val_size=val_size,
            test_size=test_size,
            random_seed=random_seed,
            distributed_config=distributed_config,
        )
"""

AFTER = """
class BaseModel(pl.LightningModule):
    def fit(self, dataset, val_size, **kwargs):
        return self._fit(
            dataset=dataset,
            batch_size=self.batch_size,
            valid_batch_size=self.valid_batch_size,
            val_size=val_size,
            test_size=test_size,
            random_seed=random_seed,
            distributed_config=distributed_config,
            shuffle_train=not self.MULTIVARIATE,
        )
"""

DATASET_BEFORE_1_6_4 = """
class TimeSeriesDataModule(pl.LightningDataModule):
    def train_dataloader(self):
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            shuffle=True,
            drop_last=self.drop_last,
        )
"""

DATASET_AFTER_1_6_4 = """
class TimeSeriesDataModule(pl.LightningDataModule):
    def train_dataloader(self):
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            shuffle=getattr(self, "shuffle_train", True),
            drop_last=self.drop_last,
        )
"""

MULTIVARIATE_BEFORE_1_6_4 = """
class BaseMultivariate(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0, random_seed=None):
        self.trainer_kwargs["val_check_interval"] = int(val_check_interval)
"""

MULTIVARIATE_AFTER_1_6_4 = """
class BaseMultivariate(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0, random_seed=None):
        self.trainer_kwargs["val_check_interval"] = int(val_check_interval)
        datamodule.shuffle_train = False
"""


def test_a_multivariate_model_does_not_shuffle() -> None:
    assert patched("multivariate-one-order", "3.3.0", BEFORE) == AFTER


def test_releases_before_1_7_get_an_option_for_it() -> None:
    assert patched("multivariate-one-order", "1.6.4", DATASET_BEFORE_1_6_4, DATASET) == DATASET_AFTER_1_6_4
    assert (
        patched("multivariate-one-order", "1.6.4", MULTIVARIATE_BEFORE_1_6_4, MULTIVARIATE) == MULTIVARIATE_AFTER_1_6_4
    )


def test_a_fit_that_has_the_option_is_refused() -> None:
    twin = BEFORE.replace("test_size=test_size,", "test_size=test_size,\n            shuffle_train=False,")
    with pytest.raises(CodemodRefused):
        patched("multivariate-one-order", "3.3.0", twin)
