"""Each device gets all series of a multivariate model, in one order."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

MODEL = "neuralforecast/common/_base_model.py"

BEFORE = """
import torch


class TimeSeriesDataModule(pl.LightningDataModule):
    def train_dataloader(self):
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle_train,
            drop_last=self.drop_last,
            **self.dataloaders_kwargs
        )
"""

AFTER = """
from neuralforecast._nfpatch import sampling
import torch


class TimeSeriesDataModule(pl.LightningDataModule):
    def train_dataloader(self):
        sampler = sampling.train_sampler(self)
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle_train and sampler is None,
            sampler=sampler,
            drop_last=self.drop_last,
            **self.dataloaders_kwargs
        )
"""

BEFORE_3_1_9 = """
import torch


class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.trainer_kwargs = trainer_kwargs

    def training_step(self, batch, batch_idx):
        n_windows = len(final_condition)
"""

AFTER_3_1_9 = """
from neuralforecast._nfpatch import sampling
import torch


class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.trainer_kwargs = trainer_kwargs
        # Every device needs all series; the windows are sharded instead
        if self.MULTIVARIATE:
            self.trainer_kwargs.setdefault("use_distributed_sampler", False)

    def training_step(self, batch, batch_idx):
        final_condition = sampling.shard_windows(self, final_condition)
        n_windows = len(final_condition)
"""

BEFORE_1_7_0 = """
import torch


class BaseMultivariate(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        self.trainer_kwargs = trainer_kwargs

    def _create_windows(self, batch, step):
        if step == "train":
            n_windows = windows.shape[2]
            if self.batch_size is not None:
                w_idxs = np.random.choice(
                    n_windows,
                    size=self.batch_size,
                    replace=(n_windows < self.batch_size),
                )
                windows = windows[:, :, w_idxs, :]
"""

AFTER_1_7_0 = """
from neuralforecast._nfpatch import sampling
import torch


class BaseMultivariate(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        self.trainer_kwargs = trainer_kwargs
        # Every device needs all series; the windows are sharded instead
        self.trainer_kwargs.setdefault("use_distributed_sampler", False)

    def _create_windows(self, batch, step):
        if step == "train":
            n_windows = windows.shape[2]
            if self.batch_size is not None:
                w_idxs = sampling.draw_windows_of_all_series(self, n_windows)
                windows = windows[:, :, w_idxs, :]
"""


def test_the_series_come_from_one_sampler() -> None:
    assert patched("multivariate-all-series", "3.3.0", BEFORE) == AFTER


def test_releases_before_3_2_shard_no_windows_and_get_that_as_well() -> None:
    assert patched("multivariate-all-series", "3.1.9", BEFORE_3_1_9, MODEL) == AFTER_3_1_9


def test_releases_before_3_0_have_a_base_class_for_it() -> None:
    assert patched("multivariate-all-series", "1.7.0", BEFORE_1_7_0) == AFTER_1_7_0


def test_a_loader_that_always_shuffles_is_refused() -> None:
    twin = BEFORE.replace("shuffle=self.shuffle_train", "shuffle=True")
    with pytest.raises(CodemodRefused):
        patched("multivariate-all-series", "3.3.0", twin)
