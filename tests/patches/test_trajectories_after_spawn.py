"""The trajectories of a training in spawned or forked processes are copied back to the model."""

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
            trainer.fit(model, datamodule=datamodule)

    def get_test_size(self):
        return self.test_size
"""

AFTER = """
from neuralforecast._nfpatch import trajectories
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            with trajectories.kept_after_spawn(model):
                trainer.fit(model, datamodule=datamodule)

    def get_test_size(self):
        return self.test_size

    def teardown(self, stage):
        super().teardown(stage)
        trajectories.write_from_launched_process(self)
"""

BEFORE_1_7_0 = """
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        trainer.fit(self, datamodule=datamodule)

    def get_test_size(self):
        return self.test_size
"""

AFTER_1_7_0 = """
from neuralforecast._nfpatch import trajectories
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        with trajectories.kept_after_spawn(self):
            trainer.fit(self, datamodule=datamodule)

    def get_test_size(self):
        return self.test_size

    def teardown(self, stage):
        super().teardown(stage)
        trajectories.write_from_launched_process(self)
"""

BEFORE_1_4_0 = """
import torch


class BaseWindows(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.train_trajectories = []

    def validation_epoch_end(self, outputs):
        pass

    def fit(self, dataset, val_size=0, test_size=0):
        trainer.fit(self, datamodule=datamodule)

    def set_test_size(self, test_size):
        self.test_size = test_size
"""

AFTER_1_4_0 = """
from neuralforecast._nfpatch import trajectories
import torch


class BaseWindows(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.train_trajectories = []

    def validation_epoch_end(self, outputs):
        pass

    def fit(self, dataset, val_size=0, test_size=0):
        with trajectories.kept_after_spawn(self):
            trainer.fit(self, datamodule=datamodule)

    def set_test_size(self, test_size):
        self.test_size = test_size

    def teardown(self, stage):
        super().teardown(stage)
        trajectories.write_from_launched_process(self)
"""


def test_they_are_kept_around_the_fit() -> None:
    assert patched("trajectories-after-spawn", "3.3.0", BEFORE) == AFTER


def test_in_1_7_0_the_model_trains_itself() -> None:
    assert patched("trajectories-after-spawn", "1.7.0", BEFORE_1_7_0) == AFTER_1_7_0


def test_with_lightning_1_the_hook_has_another_neighbour() -> None:
    assert patched("trajectories-after-spawn", "1.4.0", BEFORE_1_4_0, WINDOWS) == AFTER_1_4_0


def test_a_base_class_with_its_own_teardown_is_refused() -> None:
    twin = BEFORE.replace(
        "    def get_test_size", "    def teardown(self, stage=None):\n        pass\n\n    def get_test_size"
    )
    with pytest.raises(CodemodRefused):
        patched("trajectories-after-spawn", "3.3.0", twin)
