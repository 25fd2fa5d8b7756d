"""A trial of ray trains on one device."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}
"""

AFTER = """
from neuralforecast._nfpatch import ray_trials
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        config_step = ray_trials.single_device_config(config_step)
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}
"""

BEFORE_3_2_0 = """
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}

    def _tune_model(self, cls_model, dataset, **kwargs):
        if gpus > 0:
            device_dict = {"gpu": gpus}
        else:
            device_dict = {"cpu": cpus}
"""

AFTER_3_2_0 = """
from neuralforecast._nfpatch import ray_trials
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        config_step = ray_trials.single_device_config(config_step)
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}

    def _tune_model(self, cls_model, dataset, **kwargs):
        gpus = ray_trials.reserve_one_gpu(config, gpus)

        if gpus > 0:
            device_dict = {"gpu": gpus}
        else:
            device_dict = {"cpu": cpus}
"""

BEFORE_1_5_0 = """
import torch


def train_tune(config_step, cls_model, dataset, val_size, test_size):
    metrics = {"loss": "ptl/val_loss"}


def tune_model(cls_model, dataset, val_size, **kwargs):
    if gpus > 0:
        device_dict = {"gpu": gpus}
    else:
        device_dict = {"cpu": cpus}
"""

AFTER_1_5_0 = """
from neuralforecast._nfpatch import ray_trials
import torch


def train_tune(config_step, cls_model, dataset, val_size, test_size):
    config_step = ray_trials.single_device_config(config_step)
    metrics = {"loss": "ptl/val_loss"}


def tune_model(cls_model, dataset, val_size, **kwargs):
    gpus = ray_trials.reserve_one_gpu(config, gpus)

    if gpus > 0:
        device_dict = {"gpu": gpus}
    else:
        device_dict = {"cpu": cpus}
"""


def test_a_trial_has_one_device() -> None:
    assert patched("ray-trial-on-one-device", "3.3.0", BEFORE) == AFTER


def test_releases_before_3_2_1_reserve_one_gpu_as_well() -> None:
    assert patched("ray-trial-on-one-device", "3.2.0", BEFORE_3_2_0) == AFTER_3_2_0


def test_releases_before_1_6_have_functions_for_it() -> None:
    assert patched("ray-trial-on-one-device", "1.5.0", BEFORE_1_5_0) == AFTER_1_5_0


def test_a_trial_that_reports_other_metrics_is_refused() -> None:
    twin = BEFORE.replace(', "train_loss": "train_loss"', "")
    with pytest.raises(CodemodRefused):
        patched("ray-trial-on-one-device", "3.3.0", twin)
