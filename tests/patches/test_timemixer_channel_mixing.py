"""TimeMixer's norm is frozen, and its cross layer where channels are not independent."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class PastDecomposableMixing(nn.Module):
    def __init__(self, d_model, dropout, channel_independence, d_ff):
        self.layer_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.channel_independence = channel_independence

        self.out_cross_layer = nn.Sequential(
            nn.Linear(in_features=d_model, out_features=d_ff),
            nn.GELU(),
            nn.Linear(in_features=d_ff, out_features=d_model),
        )

    def forward(self, x):
        if self.channel_independence:
            x = self.out_cross_layer(x)
        return x
"""
AFTER = BEFORE.replace(
    "        self.dropout", "        self.layer_norm.requires_grad_(False)\n        self.dropout"
).replace(
    "        )\n",
    """\
        )
        if not self.channel_independence:
            self.out_cross_layer.requires_grad_(False)
""",
)


def test_both_are_frozen() -> None:
    assert patched("timemixer-channel-mixing", "3.3.0", BEFORE) == AFTER


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("layer_norm", "`layer_norm`.*line 17"),
        ("out_cross_layer", "`out_cross_layer`.*line 17"),
    ],
)
def test_a_block_that_uses_one_of_them_is_refused(layer: str, reason: str) -> None:
    twin = BEFORE.replace("        return x", f"        return self.{layer}(x)")
    with pytest.raises(CodemodRefused, match=reason):
        patched("timemixer-channel-mixing", "3.3.0", twin)
