"""NBEATSx builds an output layer that nothing reads.

With a loss of several outputs (`MQLoss`, `DistributionLoss`, ...) the constructor builds `self.out`, a linear layer
through which earlier releases, up to 1.1.0, mapped the forecast. From 1.2.0 on `forward` does not use it, so its weight
and bias never get a gradient and strict DDP refuses the model. With a point loss the layer is not built and the model
trains.

Upstream removed the layer in 1.7.6 (pull request 1168). This patch removes the same lines.
"""

from typing import Optional

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/nbeatsx.py"

TINY = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
EXOGENOUS = ("static", "historic", "future")


def thorough(
    config: str,
    loss: str = "MQLoss",
    exogenous: tuple[str, ...] = (),
    unused_parameters: Optional[tuple[str, ...]] = None,
    releases: str = "",
    **options: object,
) -> Case:
    return Case(
        *("NBEATSx", config, loss, exogenous, {**TINY, **options}, unused_parameters), thorough=True, releases=releases
    )


patch = Patch(
    id="nbeatsx-unused-out",
    summary="NBEATSx builds an output layer that nothing reads",
    group="unused-parameters",
    model="NBEATSx",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1168",
    variants={
        ">=1.2,<1.7.6": {
            FILE: Rewrite(
                changes=(
                    Change(
                        where="NBEATSx.__init__",
                        old="""
                        if self.loss.outputsize_multiplier > 1:
                            self.out = nn.Linear(
                                in_features=h, out_features=h * self.loss.outputsize_multiplier
                            )
                    """,
                        new="",
                    ),
                ),
                guarded_attributes={"out": ""},
            )
        },
    },
    unaffected={
        "<1.1": "this release has no NBEATSx",
        "==1.1.*": "never affected: forward uses the `out` layer in this release",
        ">=1.7.6": "fixed upstream in 1.7.6",
    },
    unaffected_code={
        ALREADY_FIXED: {FILE: Rewrite((), unused_arguments={"NBEATSx.__init__": ("out",)})},
    },
    unused_parameters=("out.weight", "out.bias"),
    removes_parameters=True,
    cases=(
        Case(model="NBEATSx", config="MQLoss", loss="MQLoss", options=TINY),
        Case(model="NBEATSx", config="MAE", loss="MAE", options=TINY, unused_parameters=()),
        thorough("DistributionLoss", loss="DistributionLoss"),
        thorough("MQLoss, historic exogenous", exogenous=("historic",)),
        thorough("MQLoss, all exogenous", exogenous=EXOGENOUS),
        thorough("DistributionLoss, all exogenous", loss="DistributionLoss", exogenous=EXOGENOUS),
        thorough("MAE, all exogenous", loss="MAE", exogenous=EXOGENOUS, unused_parameters=()),
        thorough("MQLoss, generic stacks", stack_types=["identity", "identity", "identity"]),
        thorough("MQLoss, interpretable stacks", stack_types=["trend", "seasonality"], n_blocks=[1, 1]),
        thorough("MQLoss, shared weights", n_blocks=[2, 1, 1], shared_weights=True),
        thorough(
            "MAE, exogenous stack",
            loss="MAE",
            exogenous=EXOGENOUS,
            unused_parameters=(),
            releases=">=1.7.3",
            stack_types=["identity", "exogenous"],
            n_blocks=[1, 1],
        ),
    ),
)
