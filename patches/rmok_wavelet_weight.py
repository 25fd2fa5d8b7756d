"""RMoK's wavelet layer has a weight that nothing uses.

`WaveKANLayer` builds `weight1` and initializes it, but only a commented-out base activation would use it. It never gets
a gradient, and strict DDP refuses the model in every configuration.

This patch freezes the weight. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/rmok.py"

BUILD = "self.weight1 = nn.Parameter(torch.Tensor(out_features, in_features))"
# Required because of another bug: on several ranks a multivariate model gets only some of the series.
ALL_SERIES = ("multivariate-all-series",)

patch = Patch(
    id="rmok-wavelet-weight",
    summary="RMoK's wavelet layer has a weight that nothing uses",
    group="unused-parameters",
    model="RMoK",
    upstream="not fixed yet: docs/upstream/rmok-wavelet-weight.md",
    variants={
        ">=1.7.5": {
            FILE: Rewrite(
                changes=(
                    Change("WaveKANLayer.__init__", old=BUILD, new=BUILD + "\nself.weight1.requires_grad_(False)"),
                    Change("WaveKANLayer.__init__", old="nn.init.kaiming_uniform_(self.weight1, a=math.sqrt(5))"),
                ),
                guarded_attributes={"weight1": ""},
            )
        },
    },
    unaffected={"<1.7.5": "this release has no RMoK"},
    unused_parameters=("experts.2.weight1",),
    cases=(
        Case("RMoK", "MAE", requires=ALL_SERIES),
        Case("RMoK", "MQLoss", "MQLoss", thorough=True, releases=">=3.0", requires=ALL_SERIES),
        *(
            Case(
                "RMoK",
                f"{wavelet} wavelet",
                options={"wavelet_function": wavelet},
                thorough=True,
                requires=ALL_SERIES,
            )
            for wavelet in ("morlet", "dog", "meyer", "shannon")
        ),
    ),
)
