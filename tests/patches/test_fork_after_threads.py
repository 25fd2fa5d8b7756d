"""Forked processes train with one thread each."""

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
from neuralforecast._nfpatch import forking
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            trainer = pl.Trainer(**model.trainer_kwargs)
            forking.limit_threads(trainer)
"""

BEFORE_1_7_0 = """
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER_1_7_0 = """
from neuralforecast._nfpatch import forking
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
        forking.limit_threads(trainer)
"""

BEFORE_1_6_4 = """
import torch


class BaseWindows(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0, random_seed=None):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER_1_6_4 = """
from neuralforecast._nfpatch import forking
import torch


class BaseWindows(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0, random_seed=None):
        trainer = pl.Trainer(**self.trainer_kwargs)
        forking.limit_threads(trainer)
"""


def test_the_threads_are_limited_where_the_trainer_is_built() -> None:
    assert patched("fork-after-threads", "3.3.0", BEFORE) == AFTER


def test_in_1_7_0_the_model_trains_itself() -> None:
    assert patched("fork-after-threads", "1.7.0", BEFORE_1_7_0) == AFTER_1_7_0


def test_releases_before_1_7_train_in_fit() -> None:
    assert patched("fork-after-threads", "1.6.4", BEFORE_1_6_4, WINDOWS) == AFTER_1_6_4


def test_a_trainer_with_other_arguments_is_refused() -> None:
    twin = BEFORE.replace("pl.Trainer(**model.trainer_kwargs)", "pl.Trainer(**model.trainer_kwargs, max_steps=1)")
    with pytest.raises(CodemodRefused):
        patched("fork-after-threads", "3.3.0", twin)
