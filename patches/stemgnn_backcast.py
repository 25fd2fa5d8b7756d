"""StemGNN's second block builds a shortcut that only the first block uses.

`StockBlockLayer.forward` makes a backcast only if `stack_cnt == 0`, and the constructor builds `backcast` under that
condition, but not `backcast_short_cut`, the other layer of the same branch. In `stock_block.1` its weight and bias
never get a gradient, and strict DDP refuses the model in every configuration.

This patch freezes the layer in the other blocks. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/stemgnn.py"

BUILD = "self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)"
FREEZE = """
if self.stack_cnt != 0:
    self.backcast_short_cut.requires_grad_(False)
"""
# Required because of another bug: on several ranks a multivariate model gets only some of the series.
ALL_SERIES = ("multivariate-all-series",)

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
                    Change("StockBlockLayer.__init__", old="self.stack_cnt = stack_cnt"),
                    Change("StockBlockLayer.__init__", old=BUILD, new=BUILD + FREEZE),
                ),
                guarded_attributes={"backcast_short_cut": "self.stack_cnt == 0"},
            )
        },
    },
    unaffected={"<1.5": "this release has no StemGNN"},
    unused_parameters=("stock_block.1.backcast_short_cut.*",),
    cases=(
        Case("StemGNN", "MAE", options={"multi_layer": 1}, requires=ALL_SERIES),
        Case(
            "StemGNN",
            "MQLoss",
            "MQLoss",
            options={"multi_layer": 1},
            thorough=True,
            releases=">=3.0",
            requires=ALL_SERIES,
        ),
        Case("StemGNN", "two layers", options={"multi_layer": 2}, thorough=True, requires=ALL_SERIES),
    ),
)
