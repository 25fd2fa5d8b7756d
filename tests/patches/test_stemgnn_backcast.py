"""The shortcut of StemGNN's later blocks is frozen."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class StockBlockLayer(nn.Module):
    def __init__(self, time_step, unit, multi_layer, stack_cnt=0):
        self.stack_cnt = stack_cnt
        if self.stack_cnt == 0:
            self.backcast = nn.Linear(self.time_step * self.multi, self.time_step)
        self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)
        self.relu = nn.ReLU()

    def forward(self, x, mul_L):
        if self.stack_cnt == 0:
            backcast_short = self.backcast_short_cut(x).squeeze(1)
        else:
            backcast_source = None
        return backcast_source
"""
AFTER = BEFORE.replace(
    "        self.relu",
    """\
        if self.stack_cnt != 0:
            self.backcast_short_cut.requires_grad_(False)
        self.relu""",
)


def test_it_is_frozen_in_all_blocks_but_the_first() -> None:
    assert patched("stemgnn-backcast", "3.3.0", BEFORE) == AFTER


def test_a_block_that_always_uses_it_is_refused() -> None:
    twin = BEFORE.replace("backcast_source = None", "backcast_source = self.backcast_short_cut(x)")
    with pytest.raises(CodemodRefused, match=r"`backcast_short_cut`.*line 14"):
        patched("stemgnn-backcast", "3.3.0", twin)


def test_a_block_with_another_counter_is_refused() -> None:
    twin = BEFORE.replace("self.stack_cnt = stack_cnt", "self.stack_cnt = stack_cnt - 1")
    with pytest.raises(CodemodRefused, match=r"`self.stack_cnt = stack_cnt`"):
        patched("stemgnn-backcast", "3.3.0", twin)
