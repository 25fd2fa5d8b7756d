"""A search through Optuna reads the loss from the model, which outlives its trainer."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

AUTO = "neuralforecast/common/_base_auto.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"
RECURRENT = "neuralforecast/common/_base_recurrent.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

WINDOWS_BEFORE = """
class BaseWindows(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0, random_seed=None):
        trainer.fit(self, datamodule=datamodule)
"""

WINDOWS_AFTER = """
class BaseWindows(pl.LightningModule):
    def fit(self, dataset, val_size=0, test_size=0, random_seed=None):
        trainer.fit(self, datamodule=datamodule)
        self.metrics = trainer.callback_metrics
"""

AUTO_BEFORE = """
class BaseAuto(pl.LightningModule):
    def _optuna_tune_model(self, cls_model, dataset, **kwargs):
        def objective(trial):
            return fitted_model.trainer.callback_metrics["valid_loss"].item()
"""

AUTO_AFTER = """
class BaseAuto(pl.LightningModule):
    def _optuna_tune_model(self, cls_model, dataset, **kwargs):
        def objective(trial):
            return fitted_model.metrics["valid_loss"].item()
"""


def test_models_keep_the_metrics_of_their_trainer() -> None:
    assert patched("search-after-spawn", "1.6.4", WINDOWS_BEFORE, WINDOWS) == WINDOWS_AFTER
    assert patched(
        "search-after-spawn", "1.6.4", WINDOWS_BEFORE.replace("BaseWindows", "BaseRecurrent"), RECURRENT
    ) == WINDOWS_AFTER.replace("BaseWindows", "BaseRecurrent")
    assert patched(
        "search-after-spawn", "1.6.4", WINDOWS_BEFORE.replace("BaseWindows", "BaseMultivariate"), MULTIVARIATE
    ) == WINDOWS_AFTER.replace("BaseWindows", "BaseMultivariate")
    assert patched("search-after-spawn", "1.6.4", AUTO_BEFORE, AUTO) == AUTO_AFTER


def test_a_search_by_another_loss_is_refused() -> None:
    twin = AUTO_BEFORE.replace('["valid_loss"]', '["train_loss"]')
    with pytest.raises(CodemodRefused):
        patched("search-after-spawn", "1.6.4", twin, AUTO)
