"""SOFTSSharp's position scale gets a gradient of zero in the steps that leave it out."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class STADSharp(nn.Module):
    def add_positional_embedding(self, input):
        if self.training:
            if torch.rand(1, device=input.device).item() < self.pe_keep_prob:
                return self.positional_embedding(input, scale=self.pe_scale)
            return input

        return self.positional_embedding(input, scale=self.pe_keep_prob * self.pe_scale)
"""
AFTER = BEFORE.replace("return input\n", "return ranks.with_zero_gradient(input, self.pe_scale)\n").replace(
    "import torch\n", "from neuralforecast._nfpatch import ranks\nimport torch\n"
)


def test_the_input_is_returned_with_a_gradient_for_the_scale() -> None:
    assert patched("softssharp-position-scale", "3.3.0", BEFORE) == AFTER


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.rand(1, device=input.device).item()", "torch.rand(()).item()"),
        ("return input", "return input * self.pe_scale"),
        ("scale=self.pe_scale)", "scale=1)"),
    ],
    ids=["another draw", "another result", "another scale"],
)
def test_steps_that_go_another_way_are_refused(old: str, new: str) -> None:
    assert BEFORE.count(old) == 1
    with pytest.raises(CodemodRefused, match=r"STADSharp.add_positional_embedding"):
        patched("softssharp-position-scale", "3.3.0", BEFORE.replace(old, new))
