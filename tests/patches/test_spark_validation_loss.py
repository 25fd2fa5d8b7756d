"""On Spark the validation losses are weighted by the number of series of each rank."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def on_validation_epoch_end(self):
        if self.val_size == 0:
            return
        losses = torch.stack(self.validation_step_outputs)
"""

AFTER = """
from neuralforecast._nfpatch import spark
import torch


class BaseModel(pl.LightningModule):
    def on_validation_epoch_end(self):
        spark.weight_validation_losses(self)
        if self.val_size == 0:
            return
        losses = torch.stack(self.validation_step_outputs)
"""

BEFORE_1_7_1 = """
import torch


class BaseModel(pl.LightningModule):
    def on_validation_epoch_end(self):
        if self.val_size == 0:
            return
        avg_loss = torch.stack(self.validation_step_outputs).mean()
        self.log("ptl/val_loss", avg_loss, sync_dist=True)
"""

AFTER_1_7_1 = """
from neuralforecast._nfpatch import spark
import torch


class BaseModel(pl.LightningModule):
    def on_validation_epoch_end(self):
        spark.weight_validation_losses(self)
        if self.val_size == 0:
            return
        avg_loss = torch.stack(self.validation_step_outputs).mean()
        self.log("ptl/val_loss", avg_loss, sync_dist=True)
"""


def test_the_losses_are_weighted_before_their_mean() -> None:
    assert patched("spark-validation-loss", "3.2.0", BEFORE) == AFTER


def test_in_1_7_1_the_mean_is_taken_differently() -> None:
    assert patched("spark-validation-loss", "1.7.1", BEFORE_1_7_1) == AFTER_1_7_1


def test_a_validation_under_another_condition_is_refused() -> None:
    twin = BEFORE.replace("if self.val_size == 0:", "if self.val_size < 2:")
    with pytest.raises(CodemodRefused):
        patched("spark-validation-loss", "3.2.0", twin)
