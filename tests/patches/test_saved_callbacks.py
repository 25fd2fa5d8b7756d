"""What Lightning added to the callbacks of the user is removed before they are saved."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def on_validation_epoch_end(self):
        pass
"""

AFTER = """
from neuralforecast._nfpatch import user_callbacks
import torch


class BaseModel(pl.LightningModule):
    def on_validation_epoch_end(self):
        pass

    def configure_callbacks(self):
        user_callbacks.remove_added_callbacks(self)
        return super().configure_callbacks()
"""

BEFORE_1_6_4 = """
import torch


class BaseMultivariate(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.save_hyperparameters()  # Allows instantiation from a checkpoint from class

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        pass
"""

AFTER_1_6_4 = """
from neuralforecast._nfpatch import user_callbacks
import torch


class BaseMultivariate(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.save_hyperparameters()  # Allows instantiation from a checkpoint from class

    def validation_step(self, batch, batch_idx):
        pass

    def configure_callbacks(self):
        user_callbacks.remove_added_callbacks(self)
        return super().configure_callbacks()

    def on_validation_epoch_end(self):
        pass
"""

BEFORE_1_4_0 = """
import torch


class BaseWindows(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.save_hyperparameters()  # Allows instantiation from a checkpoint from class

    def validation_step(self, batch, batch_idx):
        pass

    def validation_epoch_end(self, outputs):
        pass
"""

AFTER_1_4_0 = """
from neuralforecast._nfpatch import user_callbacks
import torch


class BaseWindows(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.save_hyperparameters()  # Allows instantiation from a checkpoint from class

    def validation_step(self, batch, batch_idx):
        pass

    def configure_callbacks(self):
        user_callbacks.remove_added_callbacks(self)
        return super().configure_callbacks()

    def validation_epoch_end(self, outputs):
        pass
"""


def test_callbacks_are_removed_when_they_are_configured() -> None:
    assert patched("saved-callbacks", "3.3.0", BEFORE) == AFTER


def test_releases_before_1_7_have_it_in_three_base_classes() -> None:
    assert patched("saved-callbacks", "1.6.4", BEFORE_1_6_4, MULTIVARIATE) == AFTER_1_6_4


def test_with_lightning_1_a_validation_ends_at_another_hook() -> None:
    assert patched("saved-callbacks", "1.4.0", BEFORE_1_4_0, WINDOWS) == AFTER_1_4_0


def test_a_base_class_with_its_own_callbacks_is_refused() -> None:
    twin = BEFORE.replace(
        "    def on_validation_epoch_end",
        "    def configure_callbacks(self):\n        pass\n\n    def on_validation_epoch_end",
    )
    with pytest.raises(CodemodRefused):
        patched("saved-callbacks", "3.3.0", twin)
