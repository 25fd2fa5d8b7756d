"""RMoK's wavelet layer has a weight that nothing uses.

`WaveKANLayer` builds `weight1`, draws its first values, and says in a comment that it is not used: it is there for
whoever wants to try a base activation. It never gets a gradient, and strict DDP refuses the model in every
configuration.

This patch removes the weight, its comment and its draw. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/rmok.py"

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
                    Change(
                        "WaveKANLayer.__init__",
                        old="self.weight1 = nn.Parameter(torch.Tensor(out_features, in_features))",
                        new="",
                    ),
                    Change(
                        "WaveKANLayer.__init__", old="nn.init.kaiming_uniform_(self.weight1, a=math.sqrt(5))", new=""
                    ),
                ),
                reads={"weight1": ""},
            )
        },
    },
    unaffected={"<1.7.5": "this release has no RMoK"},
    unused_parameters=("experts.2.weight1",),
    removes_parameters=True,
    cases=tuple(
        case._replace(requires=("multivariate-all-series",))
        for case in (
            Case("RMoK", "MAE"),
            Case("RMoK", "MQLoss", "MQLoss", thorough=True, releases=">=3.0"),
            *(
                Case("RMoK", f"{wavelet} wavelet", options={"wavelet_function": wavelet}, thorough=True)
                for wavelet in ("morlet", "dog", "meyer", "shannon")
            ),
        )
    ),
)
