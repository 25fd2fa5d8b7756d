"""The ranks share the batches of a prediction, and the series of predict_insample."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

CORE = "neuralforecast/core.py"
MODEL = "neuralforecast/common/_base_model.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

MODEL_BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def predict(self, dataset, test_size, **kwargs):
        if self.explain:
            pass
        else:
            fcsts = trainer.predict(self, datamodule=datamodule)
"""

MODEL_AFTER = """
from neuralforecast._nfpatch import prediction
import torch


class BaseModel(pl.LightningModule):
    def predict(self, dataset, test_size, **kwargs):
        if self.explain:
            pass
        else:
            fcsts = prediction.predict(trainer, self, datamodule)
"""

CORE_BEFORE = """
import torch


class NeuralForecast:
    def predict_insample(self, step_size, level, quantiles):
        for i, trimmed_dataset in enumerate(trimmed_datasets):
            # Set test size to current series length
            self.h = trimmed_dataset.max_size
            fcsts, cols = self._generate_forecasts(
                dataset=trimmed_dataset,
                uids=self.uids[i : i + 1],
                quantiles_=quantiles_,
                level_=level_,
                has_level=has_level,
                step_size=step_size,
                h=None,
            )
            fcst_list.append(fcsts)
"""

CORE_AFTER = """
from neuralforecast._nfpatch import prediction
import torch


class NeuralForecast:
    def predict_insample(self, step_size, level, quantiles):
        for i, trimmed_dataset in prediction.share_series(
            self.models, trimmed_datasets, fcst_list, step_size, quantiles_
        ):
            # Set test size to current series length
            self.h = trimmed_dataset.max_size
            fcsts, cols = self._generate_forecasts(
                dataset=trimmed_dataset,
                uids=self.uids[i : i + 1],
                quantiles_=quantiles_,
                level_=level_,
                has_level=has_level,
                step_size=step_size,
                h=None,
            )
            fcst_list.append(fcsts)
"""

BEFORE_3_0_1 = """
import torch


class NeuralForecast:
    def predict_insample(self, step_size: int = 1):
        for model in self.models:
            for i, trimmed_dataset in enumerate(trimmed_datasets):
                # Set test size to current series length
                model.set_test_size(test_size=trimmed_dataset.max_size)
                # Generate predictions
                model_fcsts = model.predict(trimmed_dataset, step_size=step_size)
                # Handle distributional forecasts; take only median
                if len(model_fcsts.shape) > 1 and model_fcsts.shape[1] == 3:
                    model_fcsts = model_fcsts[:, 0]  # Take first column (median)
                # Ensure consistent 2D shape
                if len(model_fcsts.shape) == 1:
                    model_fcsts = model_fcsts.reshape(-1, 1)
                model_series_preds.append(model_fcsts)
"""

AFTER_3_0_1 = """
from neuralforecast._nfpatch import prediction
import torch


class NeuralForecast:
    def predict_insample(self, step_size: int = 1):
        for model in self.models:
            for i, trimmed_dataset in prediction.share_series(
                [model], trimmed_datasets, model_series_preds, step_size
            ):
                # Set test size to current series length
                model.set_test_size(test_size=trimmed_dataset.max_size)
                # Generate predictions
                model_fcsts = model.predict(trimmed_dataset, step_size=step_size)
                # Handle distributional forecasts; take only median
                if len(model_fcsts.shape) > 1 and model_fcsts.shape[1] == 3:
                    model_fcsts = model_fcsts[:, 0]  # Take first column (median)
                # Ensure consistent 2D shape
                if len(model_fcsts.shape) == 1:
                    model_fcsts = model_fcsts.reshape(-1, 1)
                model_series_preds.append(model_fcsts)
"""

BEFORE_2_0_1 = """
import torch


class BaseWindows(BaseModel):
    def predict(self, dataset, test_size, **kwargs):
        fcsts = trainer.predict(self, datamodule=datamodule)
"""

AFTER_2_0_1 = """
from neuralforecast._nfpatch import prediction
import torch


class BaseWindows(BaseModel):
    def predict(self, dataset, test_size, **kwargs):
        fcsts = prediction.predict(trainer, self, datamodule)
"""


def test_batches_and_series_are_shared() -> None:
    assert patched("predict-on-all-devices", "3.3.0", MODEL_BEFORE, MODEL) == MODEL_AFTER
    assert patched("predict-on-all-devices", "3.3.0", CORE_BEFORE, CORE) == CORE_AFTER


def test_in_3_0_1_each_model_loops_over_the_series() -> None:
    assert patched("predict-on-all-devices", "3.0.1", BEFORE_3_0_1, CORE) == AFTER_3_0_1


def test_releases_before_3_0_have_several_base_classes() -> None:
    assert patched("predict-on-all-devices", "2.0.1", BEFORE_2_0_1, WINDOWS) == AFTER_2_0_1


def test_a_prediction_with_other_arguments_is_refused() -> None:
    twin = MODEL_BEFORE.replace("datamodule=datamodule)", "datamodule=datamodule, return_predictions=False)")
    with pytest.raises(CodemodRefused):
        patched("predict-on-all-devices", "3.3.0", twin, MODEL)
