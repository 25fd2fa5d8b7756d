"""Each training gets a strategy object of its own."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

WINDOWS = "neuralforecast/common/_base_windows.py"

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            trainer = pl.Trainer(**model.trainer_kwargs)
"""

AFTER = """
from neuralforecast._nfpatch import strategies
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            trainer = pl.Trainer(**strategies.with_fresh_strategy(model.trainer_kwargs))
"""

BEFORE_1_7_0 = """
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER_1_7_0 = """
from neuralforecast._nfpatch import strategies
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        trainer = pl.Trainer(**strategies.with_fresh_strategy(self.trainer_kwargs))
"""

BEFORE_1_4_0 = """
import torch


class BaseWindows(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER_1_4_0 = """
from neuralforecast._nfpatch import strategies
import torch


class BaseWindows(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0):
        trainer = pl.Trainer(**strategies.with_fresh_strategy(self.trainer_kwargs))
"""


def test_the_trainer_gets_a_fresh_strategy() -> None:
    assert patched("strategy-object", "3.3.0", BEFORE) == AFTER


def test_in_1_7_0_the_model_trains_itself() -> None:
    assert patched("strategy-object", "1.7.0", BEFORE_1_7_0) == AFTER_1_7_0


def test_releases_before_1_7_train_in_fit() -> None:
    assert patched("strategy-object", "1.4.0", BEFORE_1_4_0, WINDOWS) == AFTER_1_4_0


def test_a_trainer_with_its_own_strategy_is_refused() -> None:
    twin = BEFORE.replace("**model.trainer_kwargs", "**model.trainer_kwargs, strategy=None")
    with pytest.raises(CodemodRefused):
        patched("strategy-object", "3.3.0", twin)
