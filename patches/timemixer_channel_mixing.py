"""TimeMixer builds layers for a way of mixing channels that the model does not use.

Each `PastDecomposableMixing` builds `layer_norm`, which nothing reads, and `out_cross_layer`, which `forward` uses only
`if self.channel_independence:`. By default channels depend on each other, so both get no gradient, and strict DDP
refuses the model; with `channel_independence=1` the norm alone has that effect.

This patch freezes the norm, and the layer where it is not used. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/timemixer.py"

TINY = {"d_model": 8, "d_ff": 8, "e_layers": 2}
LAYER_NORM = "pdm_blocks.*.layer_norm.*"
BUILD_NORM = "self.layer_norm = nn.LayerNorm(d_model)"
BUILD_CROSS_LAYER = """
self.out_cross_layer = nn.Sequential(
    nn.Linear(in_features=d_model, out_features=d_ff),
    nn.GELU(),
    nn.Linear(in_features=d_ff, out_features=d_model),
)
"""
FREEZE_CROSS_LAYER = """\
if not self.channel_independence:
    self.out_cross_layer.requires_grad_(False)
"""
# Required because of another bug: on several ranks a multivariate model gets only some of the series.
ALL_SERIES = ("multivariate-all-series",)

patch = Patch(
    id="timemixer-channel-mixing",
    summary="TimeMixer builds a norm and a channel mixing that it does not use",
    group="unused-parameters",
    model="TimeMixer",
    upstream="not fixed yet: docs/upstream/timemixer-channel-mixing.md",
    variants={
        ">=1.7.4": {
            FILE: Rewrite(
                changes=(
                    Change(
                        "PastDecomposableMixing.__init__",
                        old=BUILD_NORM,
                        new=BUILD_NORM + "\nself.layer_norm.requires_grad_(False)",
                    ),
                    Change(
                        "PastDecomposableMixing.__init__",
                        old=BUILD_CROSS_LAYER,
                        new=BUILD_CROSS_LAYER + FREEZE_CROSS_LAYER,
                    ),
                ),
                guarded_attributes={"layer_norm": "", "out_cross_layer": "self.channel_independence"},
            )
        },
    },
    unaffected={"<1.7.4": "this release has no TimeMixer"},
    unused_parameters=(LAYER_NORM, "pdm_blocks.*.out_cross_layer.*"),
    cases=(
        Case("TimeMixer", "MAE", options=TINY, requires=ALL_SERIES),
        Case(
            "TimeMixer",
            "independent channels",
            options={**TINY, "channel_independence": 1},
            unused_parameters=(LAYER_NORM,),
            releases=">=1.7.5",  # 1.7.4 crashes with these options
            requires=ALL_SERIES,
        ),
        Case("TimeMixer", "MQLoss", "MQLoss", options=TINY, thorough=True, releases=">=3.0", requires=ALL_SERIES),
        Case("TimeMixer", "DFT", options={**TINY, "decomp_method": "dft_decomp"}, thorough=True, requires=ALL_SERIES),
        Case(
            "TimeMixer",
            "three scales",
            options={**TINY, "down_sampling_layers": 2},
            thorough=True,
            requires=ALL_SERIES,
        ),
    ),
)
