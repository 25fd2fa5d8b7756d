"""The parameters of the scaler `revin` are unused with a point loss.

With `scaler_type="revin"` the scaler of any model learns a shift and a scale. They enter `x_shift` and `x_scale`, which
the training step passes to a distribution loss; any other loss is computed on normalized values without them. So
`scaler.revin_bias` and `scaler.revin_weight` get no gradient, and strict DDP refuses every model.

The patch freezes them unless the loss is a distribution: they keep their initial values, as they do anyway, and stay in
saved models. Upstream has the bug up to 3.3.0. Before 3.0.0 there are two base classes that build the scaler, each in
its own file.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FEATURES = "1 + len(self.hist_exog_list) + len(self.futr_exog_list)"
FEATURES_BUT_CATEGORICAL = (
    "1 + (len(self.hist_exog_list) - len(self.hist_cat_exog_list))"
    " + (len(self.futr_exog_list) - len(self.futr_cat_exog_list))"
)
FREEZE = """
if not self.loss.is_distribution_output:
    # a point loss does not reach the parameters of revin
    self.scaler.requires_grad_(False)
"""


def freeze(base_class: str, dim: int, num_features: str = FEATURES) -> Rewrite:
    build = f"self.scaler = TemporalNorm(scaler_type=scaler_type, dim={dim}, num_features={num_features})"
    return Rewrite((Change(f"{base_class}.__init__", old=build, new=build + FREEZE),))


ALL = ("static", "historic", "future")
MLP = {"scaler_type": "revin", "hidden_size": 8}
GRU = {"scaler_type": "revin", "encoder_hidden_size": 8, "decoder_hidden_size": 8}
ITRANSFORMER = {"scaler_type": "revin", "hidden_size": 8, "n_heads": 2, "d_ff": 8, "e_layers": 1}

patch = Patch(
    id="scaler-revin",
    summary="the parameters of the scaler `revin` are unused with a point loss",
    group="unused-parameters",
    model="any",
    upstream="not fixed yet: docs/upstream/scaler-revin.md",
    variants={
        ">=1.6.4,<3.0": {
            "neuralforecast/common/_base_recurrent.py": freeze("BaseRecurrent", dim=-1),
            "neuralforecast/common/_base_windows.py": freeze("BaseWindows", dim=1),
        },
        ">=3.0,<3.2": {"neuralforecast/common/_base_model.py": freeze("BaseModel", dim=1)},
        ">=3.2": {
            "neuralforecast/common/_base_model.py": freeze("BaseModel", dim=1, num_features=FEATURES_BUT_CATEGORICAL)
        },
    },
    unaffected={"<1.6.4": "this release has no scaler `revin`"},
    unused_parameters=("scaler.revin_bias", "scaler.revin_weight"),
    cases=tuple(
        case._replace(requires=("multivariate-all-series",))
        for case in (
            Case("MLP", "revin", options=MLP, releases=">=1.6.4"),
            Case("GRU", "revin", options=GRU, releases=">=1.6.4,<3.0"),
            Case("iTransformer", "revin", "MAE", (), ITRANSFORMER, releases=">=3.0"),
            Case("MLP", "revin, MQLoss, all exogenous", "MQLoss", ALL, MLP, thorough=True, releases=">=1.6.4"),
            Case("MLP", "revin, DistributionLoss", "DistributionLoss", (), MLP, (), thorough=True, releases=">=1.6.4"),
            Case("GRU", "revin, MQLoss, all exogenous", "MQLoss", ALL, GRU, thorough=True, releases=">=1.6.4"),
        )
    ),
)
