"""The parameters of the scaler `revin` are frozen where the loss is a point loss."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

RECURRENT = "neuralforecast/common/_base_recurrent.py"

BEFORE = """
class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=1,  # Time dimension is 1.
            # Categorical features bypass the scaler
            num_features=1
            + (len(self.hist_exog_list) - len(self.hist_cat_exog_list))
            + (len(self.futr_exog_list) - len(self.futr_cat_exog_list)),
        )
"""

AFTER = """
class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=1,  # Time dimension is 1.
            # Categorical features bypass the scaler
            num_features=1
            + (len(self.hist_exog_list) - len(self.hist_cat_exog_list))
            + (len(self.futr_exog_list) - len(self.futr_cat_exog_list)),
        )
        if not self.loss.is_distribution_output:
            # a point loss does not reach the parameters of revin
            self.scaler.requires_grad_(False)
"""

BEFORE_3_1_9 = """
class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=1,  # Time dimension is 1.
            num_features=1 + len(self.hist_exog_list) + len(self.futr_exog_list),
        )
"""

AFTER_3_1_9 = """
class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=1,  # Time dimension is 1.
            num_features=1 + len(self.hist_exog_list) + len(self.futr_exog_list),
        )
        if not self.loss.is_distribution_output:
            # a point loss does not reach the parameters of revin
            self.scaler.requires_grad_(False)
"""

BEFORE_2_0_1 = """
class BaseRecurrent(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=-1,  # Time dimension is -1.
            num_features=1 + len(self.hist_exog_list) + len(self.futr_exog_list),
        )
"""

AFTER_2_0_1 = """
class BaseRecurrent(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=-1,  # Time dimension is -1.
            num_features=1 + len(self.hist_exog_list) + len(self.futr_exog_list),
        )
        if not self.loss.is_distribution_output:
            # a point loss does not reach the parameters of revin
            self.scaler.requires_grad_(False)
"""


def test_they_are_frozen_where_the_scaler_is_built() -> None:
    assert patched("scaler-revin", "3.3.0", BEFORE) == AFTER


def test_releases_before_3_2_have_no_categorical_features() -> None:
    assert patched("scaler-revin", "3.1.9", BEFORE_3_1_9) == AFTER_3_1_9


def test_recurrent_models_have_another_dimension() -> None:
    assert patched("scaler-revin", "2.0.1", BEFORE_2_0_1, RECURRENT) == AFTER_2_0_1


def test_a_scaler_of_another_dimension_is_refused() -> None:
    twin = BEFORE.replace("dim=1,", "dim=2,")
    with pytest.raises(CodemodRefused):
        patched("scaler-revin", "3.3.0", twin)
