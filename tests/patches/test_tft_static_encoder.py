"""TFT builds its static encoder only where there are static features, as upstream does from 1.7.5 on."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class TFT(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        self.static_encoder = StaticCovariateEncoder(
            hidden_size=hidden_size,
            num_static_vars=self.stat_exog_size,
            dropout=dropout,
        )

    def forward(self, windows_batch):
        if s_inp is not None:
            cs, ce, ch, cc = self.static_encoder(s_inp)
"""

AFTER = """
class TFT(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        if self.stat_exog_size > 0:
            self.static_encoder = StaticCovariateEncoder(
                hidden_size=hidden_size,
                num_static_vars=self.stat_exog_size,
                dropout=dropout,
            )

    def forward(self, windows_batch):
        if s_inp is not None:
            cs, ce, ch, cc = self.static_encoder(s_inp)
"""

BEFORE_1_7_2 = """
class TFT(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        self.static_encoder = StaticCovariateEncoder(
            hidden_size=hidden_size, num_static_vars=stat_input_size, dropout=dropout
        )

    def forward(self, windows_batch):
        if s_inp is not None:
            cs, ce, ch, cc = self.static_encoder(s_inp)
"""

AFTER_1_7_2 = """
class TFT(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        if stat_input_size > 0:
            self.static_encoder = StaticCovariateEncoder(
                hidden_size=hidden_size, num_static_vars=stat_input_size, dropout=dropout
            )

    def forward(self, windows_batch):
        if s_inp is not None:
            cs, ce, ch, cc = self.static_encoder(s_inp)
"""


def test_it_is_built_under_a_condition() -> None:
    assert patched("tft-static-encoder", "1.7.4", BEFORE) == AFTER


def test_releases_before_1_7_3_count_the_features_in_a_variable() -> None:
    assert patched("tft-static-encoder", "1.7.2", BEFORE_1_7_2) == AFTER_1_7_2


def test_a_model_that_always_uses_it_is_refused() -> None:
    twin = BEFORE.replace("if s_inp is not None:", "if self.static_encoder:")
    with pytest.raises(CodemodRefused):
        patched("tft-static-encoder", "1.7.4", twin)
