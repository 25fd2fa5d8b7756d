"""FEDformer's projections whose results its Fourier layers ignore are frozen."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class AutoCorrelationLayer(nn.Module):
    def __init__(self, correlation, hidden_size, n_head, d_keys=None, d_values=None):
        self.inner_correlation = correlation
        self.query_projection = nn.Linear(hidden_size, d_keys * n_head)
        self.key_projection = nn.Linear(hidden_size, d_keys * n_head)
        self.value_projection = nn.Linear(hidden_size, d_values * n_head)
        self.out_projection = nn.Linear(d_values * n_head, hidden_size)

    def forward(self, queries, keys, values, attn_mask):
        queries = self.query_projection(queries).view(B, L, H, -1)
        keys = self.key_projection(keys).view(B, S, H, -1)
        values = self.value_projection(values).view(B, S, H, -1)

        out, attn = self.inner_correlation(queries, keys, values, attn_mask)
        return self.out_projection(out), attn


class FourierBlock(nn.Module):
    def forward(self, q, k, v, mask):
        return q, None


class FourierCrossAttention(nn.Module):
    def forward(self, q, k, v, mask):
        return q * k, None
"""
AFTER = BEFORE.replace(
    "        self.out_projection",
    """\
        self.value_projection.requires_grad_(False)
        if not isinstance(correlation, FourierCrossAttention):
            self.key_projection.requires_grad_(False)
        self.out_projection""",
)


def test_values_are_frozen_and_keys_but_for_the_cross_attention() -> None:
    assert patched("fedformer-projections", "3.3.0", BEFORE) == AFTER


@pytest.mark.parametrize(
    ("used", "reason"),
    [
        ("return q, None", "`FourierBlock.forward`.*`k`"),
        ("return q * k, None", "`FourierCrossAttention.forward`.*`v`"),
    ],
)
def test_a_correlation_that_reads_the_projections_is_refused(used: str, reason: str) -> None:
    twin = BEFORE.replace(used, "return q * k * v, None")
    with pytest.raises(CodemodRefused, match=reason):
        patched("fedformer-projections", "3.3.0", twin)


@pytest.mark.parametrize("layer", ["key_projection", "value_projection"])
def test_a_projection_that_is_used_elsewhere_is_refused(layer: str) -> None:
    twin = BEFORE.replace("return self.out_projection(out)", f"return self.{layer}(out)")
    with pytest.raises(CodemodRefused, match=f"`{layer}`.*line 16"):
        patched("fedformer-projections", "3.3.0", twin)


def test_projected_values_that_are_used_elsewhere_are_refused() -> None:
    twin = BEFORE.replace("        out, attn", "        queries = queries + values\n        out, attn")
    with pytest.raises(CodemodRefused, match=r"AutoCorrelationLayer.forward"):
        patched("fedformer-projections", "3.3.0", twin)
