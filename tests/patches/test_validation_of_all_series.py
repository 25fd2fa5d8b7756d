"""The ranks share the batches of a validation, and all get the loss of one process."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"
TFT = "neuralforecast/models/tft.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

DATASET_BEFORE = """
import torch


class TimeSeriesDataModule(pl.LightningDataModule):
    def val_dataloader(self):
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.valid_batch_size,
            shuffle=False,
            drop_last=self.drop_last,
            **self.dataloaders_kwargs
        )
"""

DATASET_AFTER = """
from neuralforecast._nfpatch import validation
import torch


class TimeSeriesDataModule(pl.LightningDataModule):
    def val_dataloader(self):
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.valid_batch_size,
            shuffle=False,
            sampler=validation.sample_batches(self, self.valid_batch_size),
            drop_last=self.drop_last,
            **self.dataloaders_kwargs
        )
"""

MODEL_BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_epoch_end(self):
        stacked = torch.stack(self.validation_step_outputs)
        totals = self.all_gather(stacked.sum(dim=0)).reshape(-1, 2).sum(dim=0)

    def training_step(self, batch, batch_idx):
        self.log(
            "train_loss",
            train_loss_log,
            batch_size=outsample_y.size(0),
            prog_bar=True,
            on_epoch=True,
        )

    def validation_step(self, batch, batch_idx):
        windows_temporal, static, static_cols, final_condition, sample_weight_windows, temporal_cols = (
            self._create_windows(batch, step="val")
        )
        final_condition = self._shard_multivariate_windows(final_condition)
        n_windows = len(final_condition)
        self.log(
            "valid_loss",
            valid_loss_log.item(),
            batch_size=batch_size,
            prog_bar=True,
            on_epoch=True,
        )
"""

MODEL_AFTER = """
from neuralforecast._nfpatch import compat
from neuralforecast._nfpatch import validation
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_batch_start(self, *args):
        validation.record_validation_step(self, *args)
        return super().on_validation_batch_start(*args)

    def on_validation_epoch_end(self):
        stacked = torch.stack(validation.gather_outputs(self))
        totals = validation.gather_totals(self, stacked.sum(dim=0)).reshape(-1, 2).sum(dim=0)

    def training_step(self, batch, batch_idx):
        self.log(
            "train_loss",
            train_loss_log,
            batch_size=outsample_y.size(0),
            prog_bar=True,
            on_epoch=True,
            sync_dist=compat.is_train_loss_reduced(self),
        )

    def validation_step(self, batch, batch_idx):
        windows_temporal, static, static_cols, final_condition, sample_weight_windows, temporal_cols = (
            self._create_windows(batch, step="val")
        )
        n_windows = len(final_condition)
        self.log(
            "valid_loss",
            valid_loss_log.item(),
            batch_size=batch_size,
            prog_bar=True,
            on_epoch=True,
            sync_dist=validation.is_loss_reduced(self),
        )
"""

BEFORE_3_2_0 = """
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_epoch_end(self):
        losses = torch.stack(self.validation_step_outputs)
        avg_loss = losses.mean().detach().item()
        self.log(
            "ptl/val_loss",
            avg_loss,
            batch_size=losses.size(0),
            sync_dist=True,
        )

    def training_step(self, batch, batch_idx):
        self.log(
            "train_loss",
            train_loss_log,
            batch_size=outsample_y.size(0),
            prog_bar=True,
            on_epoch=True,
        )

    def validation_step(self, batch, batch_idx):
        self.log(
            "valid_loss",
            valid_loss_log.item(),
            batch_size=batch_size,
            prog_bar=True,
            on_epoch=True,
        )
"""

AFTER_3_2_0 = """
from neuralforecast._nfpatch import compat
from neuralforecast._nfpatch import validation
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_batch_start(self, *args):
        validation.record_validation_step(self, *args)
        return super().on_validation_batch_start(*args)

    def on_validation_epoch_end(self):
        losses = torch.stack(validation.gather_outputs(self))
        avg_loss = validation.mean_over_ranks(self, losses.mean().detach()).item()
        self.log(
            "ptl/val_loss",
            avg_loss,
            batch_size=losses.size(0),
            sync_dist=validation.is_loss_reduced(self),
        )

    def training_step(self, batch, batch_idx):
        self.log(
            "train_loss",
            train_loss_log,
            batch_size=outsample_y.size(0),
            prog_bar=True,
            on_epoch=True,
            sync_dist=compat.is_train_loss_reduced(self),
        )

    def validation_step(self, batch, batch_idx):
        self.log(
            "valid_loss",
            valid_loss_log.item(),
            batch_size=batch_size,
            prog_bar=True,
            on_epoch=True,
            sync_dist=validation.is_loss_reduced(self),
        )
"""

BEFORE_1_7_1 = """
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_epoch_end(self):
        avg_loss = torch.stack(self.validation_step_outputs).mean()
        self.log("ptl/val_loss", avg_loss, sync_dist=True)
"""

AFTER_1_7_1 = """
from neuralforecast._nfpatch import validation
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_batch_start(self, *args):
        validation.record_validation_step(self, *args)
        return super().on_validation_batch_start(*args)

    def on_validation_epoch_end(self):
        avg_loss = torch.stack(validation.gather_outputs(self)).mean()
        avg_loss = validation.mean_over_ranks(self, avg_loss)
        self.log("ptl/val_loss", avg_loss, sync_dist=validation.is_loss_reduced(self))
"""

WINDOWS_BEFORE_1_4_0 = """
import torch


class BaseWindows(pl.LightningModule):
    def on_fit_start(self):
        pass

    def validation_epoch_end(self, outputs):
        avg_loss = torch.stack(outputs).mean()
"""

WINDOWS_AFTER_1_4_0 = """
from neuralforecast._nfpatch import validation
import torch


class BaseWindows(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_validation_batch_start(self, *args):
        validation.record_validation_step(self, *args)
        return super().on_validation_batch_start(*args)

    def validation_epoch_end(self, outputs):
        avg_loss = torch.stack(validation.gather_outputs(self, outputs)).mean()
        avg_loss = validation.mean_over_ranks(self, avg_loss)
"""

TFT_BEFORE_1_4_0 = """
import torch


class TFT(BaseWindows):
    def validation_epoch_end(self, outputs):
        avg_loss = torch.stack(outputs).mean()
"""

TFT_AFTER_1_4_0 = """
from neuralforecast._nfpatch import validation
import torch


class TFT(BaseWindows):
    def validation_epoch_end(self, outputs):
        avg_loss = torch.stack(validation.gather_outputs(self, outputs)).mean()
        avg_loss = validation.mean_over_ranks(self, avg_loss)
"""


def test_batches_are_sampled_and_losses_gathered() -> None:
    assert patched("validation-of-all-series", "3.3.0", DATASET_BEFORE, DATASET) == DATASET_AFTER
    assert patched("validation-of-all-series", "3.3.0", MODEL_BEFORE, MODEL) == MODEL_AFTER


def test_releases_before_3_2_1_take_the_mean_of_the_losses() -> None:
    assert patched("validation-of-all-series", "3.2.0", BEFORE_3_2_0, MODEL) == AFTER_3_2_0


def test_releases_before_1_7_2_take_the_mean_of_the_outputs() -> None:
    assert patched("validation-of-all-series", "1.7.1", BEFORE_1_7_1, MODEL) == AFTER_1_7_1


def test_with_lightning_1_the_outputs_are_passed() -> None:
    assert patched("validation-of-all-series", "1.4.0", WINDOWS_BEFORE_1_4_0, WINDOWS) == WINDOWS_AFTER_1_4_0
    assert patched("validation-of-all-series", "1.4.0", TFT_BEFORE_1_4_0, TFT) == TFT_AFTER_1_4_0


def test_a_validation_with_another_sum_is_refused() -> None:
    twin = MODEL_BEFORE.replace("stacked.sum(dim=0)", "stacked.mean(dim=0)")
    with pytest.raises(CodemodRefused):
        patched("validation-of-all-series", "3.3.0", twin, MODEL)
