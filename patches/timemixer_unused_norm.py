"""TimeMixer builds parameters for a normalization that is switched off.

With `use_norm=False` the layers of `normalize_layers` return their input before they use `affine_weight` and
`affine_bias`, which the constructor always builds. They never get a gradient, and strict DDP refuses the model. The
layers of the patch `timemixer-channel-mixing` have the same effect in every configuration.

This patch freezes the parameters where the normalization is switched off. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/timemixer.py"


def freeze_norms(layer: str) -> Change:
    build = f"""
        self.normalize_layers = torch.nn.ModuleList(
            [
                {layer}(self.enc_in, affine=True, non_norm=False if self.use_norm else True)
                for i in range(self.down_sampling_layers + 1)
            ]
        )
"""
    freeze = """\
        if not self.use_norm:
            self.normalize_layers.requires_grad_(False)
"""
    return Change("TimeMixer.__init__", old=build, new=build + freeze)


# In later releases the class is in another file
NORMALIZE_RETURNS_ITS_INPUT = (
    Change("Normalize._normalize", old="if self.non_norm:\n    return x"),
    Change("Normalize._denormalize", old="if self.non_norm:\n    return x"),
)
TINY = {"d_model": 8, "d_ff": 8, "e_layers": 2, "use_norm": False}
NORMS = ("normalize_layers.*.affine_weight", "normalize_layers.*.affine_bias")
CHANNEL_MIXING = ("pdm_blocks.*.layer_norm.*", "pdm_blocks.*.out_cross_layer.*")
# Required because of another bug: on several ranks a multivariate model gets only some of the series.
ALL_SERIES = ("multivariate-all-series",)

patch = Patch(
    id="timemixer-unused-norm",
    summary="TimeMixer builds the parameters of a norm that is switched off",
    group="unused-parameters",
    model="TimeMixer",
    upstream="not fixed yet: docs/upstream/timemixer-unused-norm.md",
    variants={
        "==1.7.4": {FILE: Rewrite((freeze_norms("Normalize"), *NORMALIZE_RETURNS_ITS_INPUT))},
        ">=1.7.5": {FILE: Rewrite((freeze_norms("RevIN"),))},
    },
    unaffected={"<1.7.4": "this release has no TimeMixer"},
    unused_parameters=NORMS,
    requires=("timemixer-channel-mixing",),
    cases=(
        Case(
            "TimeMixer",
            "no norm",
            options=TINY,
            unused_parameters=(*NORMS, *CHANNEL_MIXING),
            requires=ALL_SERIES,
        ),
        Case(
            "TimeMixer",
            "no norm, MQLoss",
            "MQLoss",
            options=TINY,
            unused_parameters=(*NORMS, *CHANNEL_MIXING),
            thorough=True,
            releases=">=3.0",
            requires=ALL_SERIES,
        ),
    ),
)
