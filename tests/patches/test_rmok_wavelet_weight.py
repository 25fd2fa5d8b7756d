"""The weight that RMoK's wavelet layer draws and does not use is frozen."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class WaveKANLayer(nn.Module):
    def __init__(self, in_features, out_features):
        # self.weight1 is not used; you may use it for weighting base activation
        self.weight1 = nn.Parameter(torch.Tensor(out_features, in_features))
        self.wavelet_weights = nn.Parameter(torch.Tensor(out_features, in_features))

        nn.init.kaiming_uniform_(self.wavelet_weights, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.weight1, a=math.sqrt(5))

    def forward(self, x):
        return self.wavelet_transform(x)
"""
AFTER = BEFORE.replace(
    "        self.wavelet_weights = ",
    "        self.weight1.requires_grad_(False)\n        self.wavelet_weights = ",
)


def test_it_is_frozen_and_its_first_values_are_drawn_as_before() -> None:
    assert patched("rmok-wavelet-weight", "3.3.0", BEFORE) == AFTER


def test_a_layer_with_a_base_activation_is_refused() -> None:
    twin = BEFORE.replace("return self", "return F.linear(x, self.weight1) + self")
    with pytest.raises(CodemodRefused, match=r"`weight1`.*line 12"):
        patched("rmok-wavelet-weight", "3.3.0", twin)
