"""SOFTSSharp leaves a parameter out of some steps at random.

In training, `STADSharp` decides at random in each layer and step whether position embeddings are added, scaled by the
parameter `pe_scale`. In the steps without them the result does not depend on `pe_scale`, which gets no gradient, so
strict DDP refuses the model at the first such step.

This patch adds the parameter with the factor 0 to the result of such a step, if there are several ranks. The random
draw and the result are the same. But the gradient is zero instead of missing, which a stateful optimizer, such as the
default Adam, treats differently; and the gradients of the layer's input are summed in another order, which may change
their last bits. So the cases compare the forward passes at a learning rate of zero, and the training if the embeddings
are always added. In a single process nothing changes. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/softssharp.py"

OLD = """
if torch.rand(1, device=input.device).item() < self.pe_keep_prob:
    return self.positional_embedding(input, scale=self.pe_scale)
return input
"""
NEW = """
if torch.rand(1, device=input.device).item() < self.pe_keep_prob:
    return self.positional_embedding(input, scale=self.pe_scale)
return ranks.with_zero_gradient(input, self.pe_scale)
"""
# Four layers: in the first step some leave their parameter out, and some use it.
TINY = {"hidden_size": 8, "d_core": 8, "d_ff": 8, "e_layers": 4, "pe_keep_prob": 0.3}
# Required because of another bug: on several ranks a multivariate model gets only some of the series.
ALL_SERIES = ("multivariate-all-series",)

patch = Patch(
    id="softssharp-position-scale",
    summary="SOFTSSharp leaves its position scale out of some steps at random",
    group="unused-parameters",
    model="SOFTSSharp",
    upstream="not fixed yet: docs/upstream/softssharp-position-scale.md",
    variants={
        ">=3.1.9": {
            FILE: Rewrite(
                changes=(Change("STADSharp.add_positional_embedding", OLD, NEW, inside=("if self.training:",)),),
                imports=("ranks",),
            )
        },
    },
    unaffected={"<3.1.9": "this release has no SOFTSSharp"},
    unused_parameters=("encoder.attn_layers.*.attention.pe_scale",),
    cases=(
        Case("SOFTSSharp", "MAE, learning rate 0", options={**TINY, "learning_rate": 0.0}, requires=ALL_SERIES),
        Case(
            "SOFTSSharp",
            "MAE, always with positions",
            options={**TINY, "pe_keep_prob": 1.0},
            unused_parameters=(),
            requires=ALL_SERIES,
        ),
        Case(
            "SOFTSSharp",
            "MQLoss, learning rate 0",
            "MQLoss",
            options={**TINY, "learning_rate": 0.0},
            thorough=True,
            requires=ALL_SERIES,
        ),
    ),
)
