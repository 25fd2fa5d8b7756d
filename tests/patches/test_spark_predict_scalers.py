"""The forecaster of a Spark task has the static scalers that fit sets."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class NeuralForecast:
    def _scalers_fit_transform(self, dataset: TimeSeriesDataset) -> None:
        self.scalers_, self.static_scalers_ = {}, {}

    def _predict_distributed(self, df, static_df, **kwargs):
        def _predict(
            df: pd.DataFrame,
            static_cols,
            futr_exog_cols,
            models,
            freq,
            id_col,
            time_col,
            target_col,
            h,
        ) -> pd.DataFrame:
            nf.scalers_ = {}

    def _simulate_distributed(self, df, static_df, **kwargs):
        def _simulate(
            df: pd.DataFrame,
            static_cols,
            futr_exog_cols,
            models,
            freq,
            id_col,
            time_col,
            target_col,
            n_paths,
            quantiles,
            seed,
            method,
            data_kwargs,
        ) -> pd.DataFrame:
            nf.scalers_ = {}
"""

AFTER = """
class NeuralForecast:
    def _scalers_fit_transform(self, dataset: TimeSeriesDataset) -> None:
        self.scalers_, self.static_scalers_ = {}, {}

    def _predict_distributed(self, df, static_df, **kwargs):
        def _predict(
            df: pd.DataFrame,
            static_cols,
            futr_exog_cols,
            models,
            freq,
            id_col,
            time_col,
            target_col,
            h,
        ) -> pd.DataFrame:
            nf.scalers_ = {}
            nf.static_scalers_ = {}

    def _simulate_distributed(self, df, static_df, **kwargs):
        def _simulate(
            df: pd.DataFrame,
            static_cols,
            futr_exog_cols,
            models,
            freq,
            id_col,
            time_col,
            target_col,
            n_paths,
            quantiles,
            seed,
            method,
            data_kwargs,
        ) -> pd.DataFrame:
            nf.scalers_ = {}
            nf.static_scalers_ = {}
"""

BEFORE_3_1_5 = """
class NeuralForecast:
    def _scalers_fit_transform(self, dataset: TimeSeriesDataset) -> None:
        self.scalers_, self.static_scalers_ = {}, {}

    def _predict_distributed(self, df, static_df, **kwargs):
        def _predict(
            df: pd.DataFrame,
            static_cols,
            futr_exog_cols,
            models,
            freq,
            id_col,
            time_col,
            target_col,
            h,
        ) -> pd.DataFrame:
            nf.scalers_ = {}
"""

AFTER_3_1_5 = """
class NeuralForecast:
    def _scalers_fit_transform(self, dataset: TimeSeriesDataset) -> None:
        self.scalers_, self.static_scalers_ = {}, {}

    def _predict_distributed(self, df, static_df, **kwargs):
        def _predict(
            df: pd.DataFrame,
            static_cols,
            futr_exog_cols,
            models,
            freq,
            id_col,
            time_col,
            target_col,
            h,
        ) -> pd.DataFrame:
            nf.scalers_ = {}
            nf.static_scalers_ = {}
"""


def test_both_functions_set_them() -> None:
    assert patched("spark-predict-scalers", "3.2.0", BEFORE) == AFTER


def test_releases_before_3_1_6_do_not_simulate() -> None:
    assert patched("spark-predict-scalers", "3.1.5", BEFORE_3_1_5) == AFTER_3_1_5


def test_a_source_that_sets_them_is_refused() -> None:
    twin = BEFORE.replace("        nf.scalers_ = {}", "        nf.scalers_ = {}\n            nf.static_scalers_ = {}")
    with pytest.raises(CodemodRefused):
        patched("spark-predict-scalers", "3.2.0", twin)
