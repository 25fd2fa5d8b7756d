"""The residual weight of DilatedRNN's cells is frozen where the sizes are equal."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class ResLSTMCell(nn.Module):
    def __init__(self, input_size, hidden_size, dropout=0.0):
        super(ResLSTMCell, self).__init__()
        self.bias_hh = nn.Parameter(torch.randn(1 * hidden_size))
        self.weight_ir = nn.Parameter(torch.randn(hidden_size, input_size))
        self.dropout = dropout

    def forward(self, inputs, hidden):
        if self.input_size == self.hidden_size:
            hy = outgate * (ry + inputs)
        else:
            hy = outgate * (ry + torch.matmul(inputs, self.weight_ir.t()))
        return hy
"""
AFTER = BEFORE.replace(
    "        self.dropout",
    """\
        if input_size == hidden_size:
            self.weight_ir.requires_grad_(False)
        self.dropout""",
)


def test_it_is_frozen_where_input_and_hidden_state_have_the_same_size() -> None:
    assert patched("dilatedrnn-residual-weight", "3.3.0", BEFORE) == AFTER


def test_a_cell_that_uses_it_in_any_case_is_refused() -> None:
    twin = BEFORE.replace("ry + inputs", "ry + inputs + self.weight_ir.sum()")
    with pytest.raises(CodemodRefused, match=r"`weight_ir`.*line 11"):
        patched("dilatedrnn-residual-weight", "3.3.0", twin)


def test_a_weight_of_another_shape_is_refused() -> None:
    twin = BEFORE.replace("torch.randn(hidden_size, input_size)", "torch.randn(input_size, hidden_size)")
    with pytest.raises(CodemodRefused, match=r"ResLSTMCell.__init__"):
        patched("dilatedrnn-residual-weight", "3.3.0", twin)
