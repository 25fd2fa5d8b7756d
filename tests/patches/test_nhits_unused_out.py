"""The output layer of NHITS 1.1.0 is frozen, as nothing reads it."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class NHITS(BaseWindows):
    def __init__(self, h, input_size):
        self.blocks = torch.nn.ModuleList(blocks)

        # Adapter with Loss dependent dimensions
        if self.loss.outputsize_multiplier > 1:
            self.out = nn.Linear(in_features=h,
                        out_features=h*self.loss.outputsize_multiplier)

    def forward(self, windows_batch):
        return self.blocks(windows_batch)
"""
AFTER = BEFORE.replace(
    "outputsize_multiplier)\n\n    def forward",
    "outputsize_multiplier)\n            self.out.requires_grad_(False)\n\n    def forward",
)


def test_it_is_frozen_where_it_is_built() -> None:
    assert patched("nhits-unused-out", "1.1.0", BEFORE) == AFTER


def test_a_model_that_maps_its_forecast_through_it_is_refused() -> None:
    twin = BEFORE.replace("return self.blocks(windows_batch)", "return self.out(self.blocks(windows_batch))")
    with pytest.raises(CodemodRefused, match=r"`out`.*line 12"):
        patched("nhits-unused-out", "1.1.0", twin)
