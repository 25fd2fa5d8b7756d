"""NHITS of release 1.1.0 builds an output layer that nothing reads.

With a loss of several outputs (`MQLoss`, ...) the constructor builds `self.out`, a linear layer through which 1.0.0
mapped its forecast. 1.1.0 no longer does, so its weight and bias never get a gradient and strict DDP refuses the model.
NBEATSx has the same bug in later releases. Upstream removed this layer in 1.2.0. This patch freezes it.
"""

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/nhits.py"

BUILD = "self.out = nn.Linear(in_features=h, out_features=h * self.loss.outputsize_multiplier)"
TINY = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}

patch = Patch(
    id="nhits-unused-out",
    summary="NHITS builds an output layer that nothing reads",
    group="unused-parameters",
    model="NHITS",
    upstream="fixed in 1.2.0",
    variants={
        "==1.1.*": {
            FILE: Rewrite(
                changes=(
                    Change(
                        where="NHITS.__init__",
                        old=BUILD,
                        new=BUILD + "\nself.out.requires_grad_(False)",
                        inside=("if self.loss.outputsize_multiplier > 1:",),
                    ),
                ),
                guarded_attributes={"out": ""},
            )
        },
    },
    unaffected={
        "<1.1": "never affected: forward uses the `out` layer in this release",
        ">=1.2": "fixed upstream in 1.2.0",
    },
    unaffected_code={
        ALREADY_FIXED: {FILE: Rewrite((), unused_arguments={"NHITS.__init__": ("out",)})},
    },
    unused_parameters=("out.weight", "out.bias"),
    cases=(
        Case("NHITS", "MQLoss", "MQLoss", options=TINY),
        Case("NHITS", "MAE", options=TINY, unused_parameters=(), thorough=True),
    ),
)
