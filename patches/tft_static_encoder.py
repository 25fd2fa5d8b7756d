"""TFT builds its static covariate encoder even when the model has no static features.

`forward` calls the encoder only when there are static features, so without them its 41 parameters never get a gradient
and strict DDP refuses the model.

Upstream put the constructor call under `if self.stat_exog_size > 0:` in 1.7.5 (pull request 1114). Older releases have
other names for the number of static variables, hence the variants; each one's condition is the expression that the
constructor call already uses.
"""

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/tft.py"


def guard(size: str) -> Rewrite:
    build = f"""
        self.static_encoder = StaticCovariateEncoder(hidden_size=hidden_size, num_static_vars={size}, dropout=dropout)
    """
    return Rewrite(
        changes=(Change("TFT.__init__", old=build, new=f"if {size} > 0:\n    {build.strip()}"),),
        guarded_attributes={"static_encoder": "s_inp is not None"},
    )


TINY = {"hidden_size": 8, "n_head": 2}


def thorough(config: str, loss: str = "MAE", exogenous: tuple[str, ...] = ()) -> Case:
    return Case("TFT", config, loss, exogenous, TINY, thorough=True)


patch = Patch(
    id="tft-static-encoder",
    summary="TFT builds its static encoder without static features",
    group="unused-parameters",
    model="TFT",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1114",
    variants={
        "==1.0.*": {FILE: guard("num_static_vars")},
        ">=1.1,<1.7.3": {FILE: guard("stat_input_size")},
        ">=1.7.3,<1.7.5": {FILE: guard("self.stat_exog_size")},
    },
    unaffected={
        "<1.0": "releases before 1.0 have another layout and no TFT",
        ">=1.7.5": "fixed upstream in 1.7.5",
    },
    unaffected_code={
        ALREADY_FIXED: {FILE: Rewrite((Change("TFT.__init__", old="if self.stat_exog_size > 0: ..."),))},
    },
    unused_parameters=("static_encoder.*",),
    removes_parameters=True,
    cases=(
        Case(model="TFT", config="no static features", options=TINY),
        thorough("historic exogenous", exogenous=("historic",)),
        thorough("future exogenous", exogenous=("future",)),
        thorough("MQLoss", loss="MQLoss"),
        thorough("DistributionLoss", loss="DistributionLoss"),
    ),
)
