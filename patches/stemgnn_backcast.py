"""StemGNN's second block builds a shortcut that only the first block uses.

`StockBlockLayer.forward` makes a backcast where `stack_cnt == 0`, and the constructor builds `backcast` under that
condition, but not `backcast_short_cut`, the other layer of the same branch. In `stock_block.1` its weight and bias
never get a gradient, and strict DDP refuses the model in every configuration.

This patch moves the line under the condition. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/stemgnn.py"

patch = Patch(
    id="stemgnn-backcast",
    summary="StemGNN builds a shortcut in a block that does not use it",
    group="unused-parameters",
    model="StemGNN",
    upstream="not fixed yet: docs/upstream/stemgnn-backcast.md",
    variants={
        ">=1.5": {
            FILE: Rewrite(
                changes=(
                    Change(
                        "StockBlockLayer.__init__",
                        old="""
                        if self.stack_cnt == 0:
                            self.backcast = nn.Linear(self.time_step * self.multi, self.time_step)
                        self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)
                    """,
                        new="""
                        if self.stack_cnt == 0:
                            self.backcast = nn.Linear(self.time_step * self.multi, self.time_step)
                            self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)
                    """,
                    ),
                ),
                reads={"backcast_short_cut": "self.stack_cnt == 0"},
            )
        },
    },
    unaffected={"<1.5": "this release has no StemGNN"},
    unused_parameters=("stock_block.1.backcast_short_cut.*",),
    removes_parameters=True,
    cases=tuple(
        case._replace(requires=("multivariate-all-series",))
        for case in (
            Case("StemGNN", "MAE", options={"multi_layer": 1}),
            Case("StemGNN", "MQLoss", "MQLoss", options={"multi_layer": 1}, thorough=True, releases=">=3.0"),
            Case("StemGNN", "two layers", options={"multi_layer": 2}, thorough=True),
        )
    ),
)
