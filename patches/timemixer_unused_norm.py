"""TimeMixer gives a normalization that it switches off parameters all the same.

With `use_norm=False` the layers of `normalize_layers` return their input before they come to `affine_weight` and
`affine_bias`, which the constructor builds in any case. They never get a gradient, and strict DDP refuses the model,
even when the patch `timemixer-channel-mixing` has healed what ails TimeMixer in every configuration. So does the proof
of this patch alone: prove both.

This patch builds the parameters where the normalization is switched on. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/timemixer.py"


def norms(layer: str, affine: str) -> str:
    return f"""
        self.normalize_layers = torch.nn.ModuleList(
            [
                {layer}(
                    self.enc_in,
                    affine={affine},
                    non_norm=False if self.use_norm else True,
                )
                for i in range(self.down_sampling_layers + 1)
            ]
        )
    """


def build_where_used(layer: str) -> Rewrite:
    return Rewrite((Change("TimeMixer.__init__", norms(layer, "True"), norms(layer, "self.use_norm")),))


TINY = {"d_model": 8, "d_ff": 8, "e_layers": 2, "use_norm": False}
NORMS = ("normalize_layers.*.affine_weight", "normalize_layers.*.affine_bias")
CHANNEL_MIXING = ("pdm_blocks.*.layer_norm.*", "pdm_blocks.*.out_cross_layer.*")

patch = Patch(
    id="timemixer-unused-norm",
    summary="TimeMixer builds the parameters of a norm that is switched off",
    group="unused-parameters",
    model="TimeMixer",
    upstream="not fixed yet: docs/upstream/timemixer-unused-norm.md",
    variants={"==1.7.4": {FILE: build_where_used("Normalize")}, ">=1.7.5": {FILE: build_where_used("RevIN")}},
    unaffected={"<1.7.4": "this release has no TimeMixer"},
    unused_parameters=NORMS,
    removes_parameters=True,
    cases=tuple(
        case._replace(requires=("multivariate-all-series",))
        for case in (
            Case("TimeMixer", "no norm", options=TINY, unused_parameters=(*NORMS, *CHANNEL_MIXING)),
            Case(
                *("TimeMixer", "no norm, MQLoss", "MQLoss", (), TINY, (*NORMS, *CHANNEL_MIXING)),
                thorough=True,
                releases=">=3.0",
            ),
        )
    ),
)
