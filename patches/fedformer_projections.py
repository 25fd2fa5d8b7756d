"""FEDformer projects keys and values that its Fourier layers do not use.

`AutoCorrelationLayer` is that of Autoformer: it projects queries, keys and values for the correlation inside. In
FEDformer that is a `FourierBlock`, which uses only the queries, or a `FourierCrossAttention`, which uses queries and
keys. With two encoder layers and one decoder layer that leaves 14 parameters without a gradient, and strict DDP refuses
the model in every configuration.

This patch freezes the projection of the values, and that of the keys except in the cross attention. Both are computed
as before, and their results are ignored. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/fedformer.py"

BUILD = """
self.key_projection = nn.Linear(hidden_size, d_keys * n_head)
self.value_projection = nn.Linear(hidden_size, d_values * n_head)
"""
FREEZE = """\
self.value_projection.requires_grad_(False)
if not isinstance(correlation, FourierCrossAttention):
    self.key_projection.requires_grad_(False)
"""
# The only code that reads the two projections, and the only code that reads their results
PROJECT = """
keys = self.key_projection(keys).view(B, S, H, -1)
values = self.value_projection(values).view(B, S, H, -1)
out, attn = self.inner_correlation(queries, keys, values, attn_mask)
"""
TINY = {"hidden_size": 8, "conv_hidden_size": 8}

patch = Patch(
    id="fedformer-projections",
    summary="FEDformer projects keys and values that its Fourier layers ignore",
    group="unused-parameters",
    model="FEDformer",
    upstream="not fixed yet: docs/upstream/fedformer-projections.md",
    variants={
        ">=1.6": {
            FILE: Rewrite(
                changes=(
                    Change("AutoCorrelationLayer.__init__", old=BUILD, new=BUILD + FREEZE),
                    Change("AutoCorrelationLayer.forward", old=PROJECT),
                ),
                guarded_attributes={"key_projection": "", "value_projection": ""},
                unused_arguments={"FourierBlock.forward": ("k", "v"), "FourierCrossAttention.forward": ("v",)},
            )
        },
    },
    unaffected={"<1.6": "this release has no FEDformer"},
    unused_parameters=(
        "encoder.attn_layers.*.attention.key_projection.*",
        "encoder.attn_layers.*.attention.value_projection.*",
        "decoder.layers.*.self_attention.key_projection.*",
        "decoder.layers.*.self_attention.value_projection.*",
        "decoder.layers.*.cross_attention.value_projection.*",
    ),
    cases=(
        Case("FEDformer", "MAE", options=TINY),
        Case("FEDformer", "MQLoss, future exogenous", "MQLoss", ("future",), TINY, thorough=True),
        Case("FEDformer", "lowest modes", options={**TINY, "mode_select": "lowest", "modes": 4}, thorough=True),
        Case("FEDformer", "one layer", options={**TINY, "encoder_layers": 1, "decoder_layers": 2}, thorough=True),
    ),
)
