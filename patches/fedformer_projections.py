"""FEDformer projects keys and values that its Fourier layers do not look at.

`AutoCorrelationLayer` is that of Autoformer: it projects queries, keys and values for the correlation inside. In
FEDformer that is a `FourierBlock`, which takes nothing but the queries, or a `FourierCrossAttention`, which takes
queries and keys. With two encoder layers and one decoder layer that leaves 14 parameters without a gradient, and strict
DDP refuses the model in every configuration.

This patch builds the projection of the keys for the cross attention only, and that of the values not at all. Upstream
has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/fedformer.py"

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
                    Change(
                        "AutoCorrelationLayer.__init__",
                        old="self.key_projection = nn.Linear(hidden_size, d_keys * n_head)",
                        new="""
                        if isinstance(correlation, FourierCrossAttention):
                            self.key_projection = nn.Linear(hidden_size, d_keys * n_head)
                    """,
                    ),
                    Change(
                        "AutoCorrelationLayer.__init__",
                        old="self.value_projection = nn.Linear(hidden_size, d_values * n_head)",
                        new="",
                    ),
                    Change(
                        "AutoCorrelationLayer.forward",
                        old="keys = self.key_projection(keys).view(B, S, H, -1)",
                        new="""
                        if isinstance(self.inner_correlation, FourierCrossAttention):
                            keys = self.key_projection(keys).view(B, S, H, -1)
                    """,
                    ),
                    Change(
                        "AutoCorrelationLayer.forward",
                        old="values = self.value_projection(values).view(B, S, H, -1)",
                        new="",
                    ),
                ),
                reads={
                    "key_projection": "isinstance(self.inner_correlation, FourierCrossAttention)",
                    "value_projection": "",
                },
                ignores={"FourierBlock.forward": ("k", "v"), "FourierCrossAttention.forward": ("v",)},
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
    removes_parameters=True,
    cases=(
        Case("FEDformer", "MAE", options=TINY),
        Case("FEDformer", "MQLoss, future exogenous", "MQLoss", ("future",), TINY, thorough=True),
        Case("FEDformer", "lowest modes", options={**TINY, "mode_select": "lowest", "modes": 4}, thorough=True),
        Case("FEDformer", "one layer", options={**TINY, "encoder_layers": 1, "decoder_layers": 2}, thorough=True),
    ),
)
