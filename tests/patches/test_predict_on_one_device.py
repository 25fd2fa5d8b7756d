"""Each process predicts by itself, on one device."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

RECURRENT = "neuralforecast/common/_base_recurrent.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
            pred_trainer_kwargs["strategy"] = "auto"

    def decompose(self, dataset, step_size, **kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER = """
from neuralforecast._nfpatch import placement
import torch


class BaseModel(pl.LightningModule):
    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
            pred_trainer_kwargs["strategy"] = "auto"
        pred_trainer_kwargs.update(placement.single_device_changes(self.trainer_kwargs))

    def decompose(self, dataset, step_size, **kwargs):
        trainer = pl.Trainer(**placement.single_device_kwargs(self.trainer_kwargs))
"""

BEFORE_2_0_1 = """
import torch


class BaseWindows(BaseModel):
    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]

    def decompose(self, dataset, step_size=1, random_seed=None, **data_module_kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER_2_0_1 = """
from neuralforecast._nfpatch import placement
import torch


class BaseWindows(BaseModel):
    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
        pred_trainer_kwargs.update(placement.single_device_changes(self.trainer_kwargs))

    def decompose(self, dataset, step_size=1, random_seed=None, **data_module_kwargs):
        trainer = pl.Trainer(**placement.single_device_kwargs(self.trainer_kwargs))
"""

BEFORE_1_3_0 = """
import torch


class BaseRecurrent(pl.LightningModule):
    def predict(self, dataset, step_size=1, **data_module_kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
"""

AFTER_1_3_0 = """
from neuralforecast._nfpatch import placement
import torch


class BaseRecurrent(pl.LightningModule):
    def predict(self, dataset, step_size=1, **data_module_kwargs):
        trainer = pl.Trainer(**placement.single_device_kwargs(self.trainer_kwargs))
"""


def test_predict_and_decompose_use_one_device() -> None:
    assert patched("predict-on-one-device", "3.3.0", BEFORE) == AFTER


def test_releases_before_3_1_keep_the_strategy() -> None:
    assert patched("predict-on-one-device", "2.0.1", BEFORE_2_0_1, WINDOWS) == AFTER_2_0_1


def test_releases_before_1_4_have_no_guard() -> None:
    assert patched("predict-on-one-device", "1.3.0", BEFORE_1_3_0, RECURRENT) == AFTER_1_3_0


def test_a_guard_that_chooses_another_device_is_refused() -> None:
    twin = BEFORE.replace('["devices"] = [0]', '["devices"] = [1]')
    with pytest.raises(CodemodRefused):
        patched("predict-on-one-device", "3.3.0", twin)
