"""A training that had no batch raises, rather than returning an untrained model."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

RECURRENT = "neuralforecast/common/_base_recurrent.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def configure_optimizers(self):
        pass
"""

AFTER = """
from neuralforecast._nfpatch import drop_last
import torch


class BaseModel(pl.LightningModule):
    def configure_optimizers(self):
        pass

    def on_fit_end(self):
        super().on_fit_end()
        drop_last.refuse_empty_training(self)
"""


def test_an_empty_training_is_refused_at_its_end() -> None:
    assert patched("drop-last-loader", "3.3.0", BEFORE) == AFTER


def test_releases_before_1_7_have_it_in_two_base_classes() -> None:
    assert patched("drop-last-loader", "1.6.4", BEFORE.replace("BaseModel", "BaseWindows"), WINDOWS) == AFTER.replace(
        "BaseModel", "BaseWindows"
    )
    assert patched(
        "drop-last-loader", "1.6.4", BEFORE.replace("BaseModel", "BaseRecurrent"), RECURRENT
    ) == AFTER.replace("BaseModel", "BaseRecurrent")


def test_a_base_class_with_its_own_on_fit_end_is_refused() -> None:
    twin = BEFORE.replace(
        "    def configure_optimizers", "    def on_fit_end(self):\n        pass\n\n    def configure_optimizers"
    )
    with pytest.raises(CodemodRefused):
        patched("drop-last-loader", "3.3.0", twin)
