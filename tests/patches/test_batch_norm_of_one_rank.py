"""All ranks get the batch norm statistics of rank 0 when a training ends."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def set_test_size(self, test_size):
        self.test_size = test_size

    def on_validation_epoch_end(self):
        pass
"""

AFTER = """
from neuralforecast._nfpatch import batch_norm
import torch


class BaseModel(pl.LightningModule):
    def set_test_size(self, test_size):
        self.test_size = test_size

    def on_train_end(self):
        super().on_train_end()
        batch_norm.broadcast_statistics(self)

    def on_validation_epoch_end(self):
        pass
"""

BEFORE_1_6_4 = """
import torch


class BaseWindows(pl.LightningModule):
    def on_validation_epoch_end(self):
        pass

    def set_test_size(self, test_size):
        self.test_size = test_size
"""

AFTER_1_6_4 = """
from neuralforecast._nfpatch import batch_norm
import torch


class BaseWindows(pl.LightningModule):
    def on_validation_epoch_end(self):
        pass

    def set_test_size(self, test_size):
        self.test_size = test_size

    def on_train_end(self):
        super().on_train_end()
        batch_norm.broadcast_statistics(self)
"""


def test_the_statistics_are_broadcast_at_the_end_of_training() -> None:
    assert patched("batch-norm-of-one-rank", "3.3.0", BEFORE) == AFTER


def test_releases_before_1_7_have_it_in_the_base_class_of_windows() -> None:
    assert patched("batch-norm-of-one-rank", "1.6.4", BEFORE_1_6_4) == AFTER_1_6_4


def test_a_base_class_with_its_own_on_train_end_is_refused() -> None:
    twin = BEFORE.replace(
        "    def on_validation_epoch_end",
        "    def on_train_end(self):\n        pass\n\n    def on_validation_epoch_end",
    )
    with pytest.raises(CodemodRefused):
        patched("batch-norm-of-one-rank", "3.3.0", twin)
