"""An error of one rank is raised on all ranks."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass
"""

AFTER = """
from neuralforecast._nfpatch import failures
import torch


class BaseModel(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_train_batch_start(self, *args):
        failures.guard_training_step(self)
        return super().on_train_batch_start(*args)

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        failures.raise_error_of_rank(self)

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        failures.finish_training(self)
"""

BEFORE_1_4_0 = """
import torch


class BaseWindows(pl.LightningModule):
    def on_fit_start(self):
        pass

    def validation_epoch_end(self, outputs):
        pass
"""

AFTER_1_4_0 = """
from neuralforecast._nfpatch import failures
import torch


class BaseWindows(pl.LightningModule):
    def on_fit_start(self):
        pass

    def on_train_batch_start(self, *args):
        failures.guard_training_step(self)
        return super().on_train_batch_start(*args)

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        failures.raise_error_of_rank(self)

    def on_train_end(self):
        super().on_train_end()
        failures.finish_training(self)

    def validation_epoch_end(self, outputs):
        pass
"""


def test_each_step_is_guarded() -> None:
    assert patched("error-on-one-rank", "3.3.0", BEFORE) == AFTER


def test_releases_before_1_7_have_it_in_three_base_classes() -> None:
    assert patched(
        "error-on-one-rank", "1.6.4", BEFORE.replace("BaseModel", "BaseMultivariate"), MULTIVARIATE
    ) == AFTER.replace("BaseModel", "BaseMultivariate")


def test_with_lightning_1_training_ends_at_another_hook() -> None:
    assert patched("error-on-one-rank", "1.4.0", BEFORE_1_4_0, WINDOWS) == AFTER_1_4_0


def test_a_base_class_with_its_own_hook_of_a_step_is_refused() -> None:
    twin = BEFORE.replace(
        "    def on_fit_start",
        "    def on_train_batch_start(self, batch, batch_idx):\n        pass\n\n    def on_fit_start",
    )
    with pytest.raises(CodemodRefused):
        patched("error-on-one-rank", "3.3.0", twin)
