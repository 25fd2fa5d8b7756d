"""predict on Spark ends with `'NeuralForecast' object has no attribute 'static_scalers_'`.

Each Spark task predicts with a forecaster that it puts together itself, and which got no `static_scalers_` when static
features came to be scaled, in 3.1.4. So nothing can be predicted on Spark, with static features or without; nor, from
3.1.6 on, simulated. Fixed in 3.2.1.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/core.py"


def with_static_scalers(function: str) -> Change:
    """The forecaster of a Spark task with all that `fit` sets."""
    old = "nf.scalers_ = {}"
    return Change(f"NeuralForecast.{function}", old=old, new=f"{old}\nnf.static_scalers_ = {{}}")


PREDICT = with_static_scalers("_predict_distributed._predict")

patch = Patch(
    id="spark-predict-scalers",
    summary="predict and simulate on Spark end with an AttributeError",
    symptoms=("'NeuralForecast' object has no attribute 'static_scalers_'",),
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/issues/1578",
    variants={
        ">=3.1.4,<3.1.6": {FILE: Rewrite((PREDICT,))},
        ">=3.1.6,<3.2.1": {FILE: Rewrite((PREDICT, with_static_scalers("_simulate_distributed._simulate")))},
    },
    unaffected={
        "<1.7.1": "this release knows no Spark",
        ">=1.7.1,<3.1.4": "this release scales no static features",
        ">=3.2.1": "fixed upstream in 3.2.1",
    },
    cases=(Case("NHITS", "predict", options={"mlp_units": [[8, 8]] * 3}, stage="predict", launchers=("spark",)),),
)
