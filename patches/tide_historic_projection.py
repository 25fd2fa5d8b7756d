"""TiDE builds a projection of historic features for a model that has only future ones.

The constructor builds `hist_exog_projection` if there are historic *or* future features; `forward` uses it only if
there are historic ones. With future features alone its eight parameters never get a gradient, and strict DDP refuses
the model.

This patch freezes it where it is not used. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/tide.py"

BUILD = """
    self.hist_exog_projection = MLPResidual(
        input_dim=self.hist_exog_size,
        hidden_size=hidden_size,
        output_dim=temporal_width,
        dropout=dropout,
        layernorm=layernorm,
    )
"""
FREEZE = """\
    if self.hist_exog_size == 0:
        self.hist_exog_projection.requires_grad_(False)
"""
TINY = {"hidden_size": 8, "decoder_output_dim": 4, "temporal_decoder_dim": 8, "num_encoder_layers": 1}

patch = Patch(
    id="tide-historic-projection",
    summary="TiDE builds a projection of historic features that it does not have",
    group="unused-parameters",
    model="TiDE",
    upstream="not fixed yet: docs/upstream/tide-historic-projection.md",
    variants={
        ">=1.7.2": {
            FILE: Rewrite(
                changes=(
                    Change(
                        "TiDE.__init__",
                        old=BUILD,
                        new=BUILD + FREEZE,
                        inside=("if self.hist_exog_size > 0 or self.futr_exog_size > 0:",),
                    ),
                ),
                guarded_attributes={"hist_exog_projection": "self.hist_exog_size > 0"},
            )
        },
    },
    unaffected={"<1.7.2": "this release has no TiDE"},
    unused_parameters=("hist_exog_projection.*",),
    cases=(
        Case("TiDE", "future exogenous", exogenous=("future",), options=TINY),
        Case("TiDE", "static and future exogenous, MQLoss", "MQLoss", ("static", "future"), TINY, thorough=True),
        Case("TiDE", "all exogenous", "MAE", ("static", "historic", "future"), TINY, (), thorough=True),
    ),
)
