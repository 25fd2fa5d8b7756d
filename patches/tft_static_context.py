"""TFT's static variable selection builds a layer for a context that it never gets.

A `VariableSelectionNetwork` accepts an optional context, but always builds the layer for it, `joint_grn.lin_c`. The two
of the temporal encoder get the static context. The one of the static encoder gets none, because it produces it:
`StaticCovariateEncoder.forward` calls `self.vsn(x)`. With static features its `lin_c.weight` never gets a gradient, and
strict DDP refuses the model.

This patch freezes that one layer. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/tft.py"


def freeze_context_layer(vsn_arguments: str = "", grn_arguments: str = "") -> Rewrite:
    """The arguments are those that a release passes besides the sizes."""
    build = (
        "self.vsn = VariableSelectionNetwork("
        f"hidden_size=hidden_size, num_inputs=num_static_vars, dropout=dropout{vsn_arguments})"
    )
    build_grn = (
        "self.joint_grn = GRN(input_size=hidden_size * num_inputs, hidden_size=hidden_size, "
        f"output_size=num_inputs, context_hidden_size=hidden_size{grn_arguments})"
    )
    freeze = "\n# it gets no context\nself.vsn.joint_grn.lin_c.requires_grad_(False)"
    return Rewrite(
        changes=(
            Change("StaticCovariateEncoder.__init__", old=build, new=build + freeze),
            Change("VariableSelectionNetwork.__init__", old=build_grn),
            Change("StaticCovariateEncoder.forward", old="variable_ctx, sparse_weights = self.vsn(x)"),
            Change("VariableSelectionNetwork.forward", old="grn_outputs = self.joint_grn(Xi, c=context)"),
        ),
        guarded_attributes={"lin_c": "c is not None"},
    )


TINY = {"hidden_size": 8, "n_head": 2}
ALL = ("static", "historic", "future")

patch = Patch(
    id="tft-static-context",
    summary="TFT with static features builds a context layer that gets no context",
    group="unused-parameters",
    model="TFT",
    upstream="not fixed yet: docs/upstream/tft-static-context.md",
    variants={
        ">=1.0,<1.7.6": {FILE: freeze_context_layer()},
        ">=1.7.6": {FILE: freeze_context_layer(", grn_activation=grn_activation", ", activation=grn_activation")},
    },
    unaffected={"<1.0": "releases before 1.0 have another layout and no TFT"},
    unused_parameters=("static_encoder.vsn.joint_grn.lin_c.weight",),
    cases=(  # in 1.0.0 TFT cannot get static features
        Case("TFT", "static features", exogenous=("static",), options=TINY, releases=">=1.1,!=2.0.1"),
        Case("TFT", "all exogenous", exogenous=ALL, options=TINY, thorough=True, releases=">=1.1,!=2.0.1"),
        Case("TFT", "all exogenous, MQLoss", "MQLoss", ALL, TINY, thorough=True, releases=">=1.1,!=2.0.1"),
        # 2.0.1 compares its own default, "LSTM", with "lstm" and crashes
        Case(
            "TFT",
            "static features, GRU",
            exogenous=("static",),
            options={**TINY, "rnn_type": "gru"},
            releases="==2.0.1",
        ),
    ),
)
