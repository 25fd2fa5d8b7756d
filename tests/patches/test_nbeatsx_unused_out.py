"""The output layer of NBEATSx that nothing reads is removed, as upstream did in 1.7.6."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class NBEATSx(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        self.blocks = torch.nn.ModuleList(blocks)

        # Adapter with Loss dependent dimensions
        if self.loss.outputsize_multiplier > 1:
            self.out = nn.Linear(
                in_features=h, out_features=h * self.loss.outputsize_multiplier
            )

    def forward(self, windows_batch):
        return forecast
"""

AFTER = """
class NBEATSx(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        self.blocks = torch.nn.ModuleList(blocks)

    def forward(self, windows_batch):
        return forecast
"""


def test_the_layer_is_removed_with_its_comment() -> None:
    assert patched("nbeatsx-unused-out", "1.7.5", BEFORE) == AFTER


def test_a_model_that_reads_it_as_that_of_1_1_0_is_refused() -> None:
    twin = BEFORE.replace("return forecast", "return self.out(forecast)")
    with pytest.raises(CodemodRefused):
        patched("nbeatsx-unused-out", "1.7.5", twin)
