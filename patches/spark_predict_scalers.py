"""predict on Spark fails: `'NeuralForecast' object has no attribute 'static_scalers_'`.

Each Spark task predicts with a forecaster that it builds itself. Since static features are scaled, in 3.1.4, it lacks
`static_scalers_`. So nothing can be predicted on Spark, with static features or without; nor simulated, from 3.1.6 on.
Fixed in 3.2.1.
"""

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/core.py"


def with_static_scalers(function: str) -> Change:
    """Give the forecaster of a Spark task, in this function, all attributes that `fit` sets."""
    old = "nf.scalers_ = {}"
    return Change(f"NeuralForecast.{function}", old=old, new=f"{old}\nnf.static_scalers_ = {{}}")


def rewrite(*functions: str) -> dict[str, Rewrite]:
    """Do so in these functions of a release that scales static features."""
    absent = {f"NeuralForecast.{function}": ("nf.static_scalers_ = {}",) for function in functions}
    return {FILE: Rewrite((SCALED, *map(with_static_scalers, functions)), absent=absent)}


SCALED = Change("NeuralForecast._scalers_fit_transform", old="self.scalers_, self.static_scalers_ = {}, {}")
PREDICT, SIMULATE = "_predict_distributed._predict", "_simulate_distributed._simulate"

patch = Patch(
    id="spark-predict-scalers",
    summary="predict and simulate on Spark fail with an AttributeError",
    symptoms=("'NeuralForecast' object has no attribute 'static_scalers_'",),
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/issues/1578",
    variants={
        ">=3.1.4,<3.1.6": rewrite(PREDICT),
        ">=3.1.6,<3.2.1": rewrite(PREDICT, SIMULATE),
    },
    unaffected={
        "<1.7.1": "this release does not train on Spark",
        ">=1.7.1,<3.1.4": "this release scales no static features",
        ">=3.2.1": "fixed upstream in 3.2.1",
    },
    unaffected_code={
        ALREADY_FIXED: {FILE: Rewrite((Change(f"NeuralForecast.{PREDICT}", old="nf.static_scalers_ = {}"),))},
    },
    cases=(Case("NHITS", "predict", options={"mlp_units": [[8, 8]] * 3}, stage="predict", launchers=("spark",)),),
)
