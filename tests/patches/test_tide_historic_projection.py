"""TiDE's projection of historic features is frozen where there are none."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class TiDE(BaseModel):
    def __init__(self, h):
        if self.hist_exog_size > 0 or self.futr_exog_size > 0:
            self.hist_exog_projection = MLPResidual(
                input_dim=self.hist_exog_size,
                hidden_size=hidden_size,
                output_dim=temporal_width,
                dropout=dropout,
                layernorm=layernorm,
            )
        if self.futr_exog_size > 0:
            self.futr_exog_projection = MLPResidual()

    def forward(self, x):
        if self.hist_exog_size > 0:
            x = self.hist_exog_projection(x)
        return x
"""
AFTER = BEFORE.replace(
    "        if self.futr_exog_size > 0:\n",
    """\
            if self.hist_exog_size == 0:
                self.hist_exog_projection.requires_grad_(False)
        if self.futr_exog_size > 0:
""",
)


def test_it_is_frozen_where_there_are_future_features_only() -> None:
    assert patched("tide-historic-projection", "3.3.0", BEFORE) == AFTER


def test_a_model_that_uses_it_with_future_features_is_refused() -> None:
    twin = BEFORE.replace("        return x", "        return self.hist_exog_projection(x)")
    with pytest.raises(CodemodRefused, match=r"`hist_exog_projection`.*line 18"):
        patched("tide-historic-projection", "3.3.0", twin)


def test_a_projection_that_is_built_under_another_condition_is_refused() -> None:
    twin = BEFORE.replace("self.hist_exog_size > 0 or self.futr_exog_size > 0", "self.hist_exog_size > 0")
    with pytest.raises(CodemodRefused, match=r"TiDE.__init__"):
        patched("tide-historic-projection", "3.3.0", twin)
