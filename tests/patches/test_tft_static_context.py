"""The context layer of TFT's static variable selection is frozen, and no other."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class GRN(nn.Module):
    def __init__(self, input_size, hidden_size, output_size=None, context_hidden_size=None):
        if context_hidden_size is not None:
            self.lin_c = nn.Linear(context_hidden_size, hidden_size, bias=False)

    def forward(self, a, c=None):
        x = self.lin_a(a)
        if c is not None:
            x = x + self.lin_c(c).unsqueeze(1)
        return x


class VariableSelectionNetwork(nn.Module):
    def __init__(self, hidden_size, num_inputs, dropout):
        self.joint_grn = GRN(
            input_size=hidden_size * num_inputs,
            hidden_size=hidden_size,
            output_size=num_inputs,
            context_hidden_size=hidden_size,
        )

    def forward(self, x, context=None):
        grn_outputs = self.joint_grn(Xi, c=context)
        return grn_outputs


class StaticCovariateEncoder(nn.Module):
    def __init__(self, hidden_size, num_static_vars, dropout):
        self.vsn = VariableSelectionNetwork(
            hidden_size=hidden_size, num_inputs=num_static_vars, dropout=dropout
        )
        self.context_grns = nn.ModuleList()

    def forward(self, x):
        variable_ctx, sparse_weights = self.vsn(x)
        return variable_ctx


class TemporalCovariateEncoder(nn.Module):
    def __init__(self, hidden_size, num_historic_vars, dropout):
        self.history_vsn = VariableSelectionNetwork(
            hidden_size=hidden_size, num_inputs=num_historic_vars, dropout=dropout
        )

    def forward(self, x, cs):
        return self.history_vsn(x, cs)
"""
AFTER = BEFORE.replace(
    "        self.context_grns",
    """\
        # it gets no context
        self.vsn.joint_grn.lin_c.requires_grad_(False)
        self.context_grns""",
)


def with_activation(text: str) -> str:
    """The text as in releases from 1.7.6 on."""
    return (
        text.replace("dropout):", "dropout, grn_activation):")
        .replace("dropout=dropout\n", "dropout=dropout, grn_activation=grn_activation\n")
        .replace("context_hidden_size=hidden_size,", "context_hidden_size=hidden_size, activation=grn_activation,")
    )


def test_only_that_of_the_static_encoder_is_frozen() -> None:
    assert patched("tft-static-context", "1.7.4", BEFORE) == AFTER
    assert patched("tft-static-context", "3.3.0", with_activation(BEFORE)) == with_activation(AFTER)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("self.vsn(x)", "self.vsn(x, x)", "StaticCovariateEncoder.forward"),
        ("if c is not None:", "if True:", "`lin_c`.*line 10"),
        ("c=context)", "c=Xi)", "VariableSelectionNetwork.forward"),
        ("context_hidden_size=hidden_size,", "", "VariableSelectionNetwork.__init__"),
    ],
    ids=["it gets one", "it needs none", "it is its own", "the layer is not built"],
)
def test_a_network_whose_context_is_another_is_refused(old: str, new: str, reason: str) -> None:
    assert BEFORE.count(old) == 1
    with pytest.raises(CodemodRefused, match=reason):
        patched("tft-static-context", "1.7.4", BEFORE.replace(old, new))
