"""What a user's script does on Spark after `fit`, held against what one process with the same weights gives."""

from __future__ import annotations

from .comparing import start_from, weights_of
from .models import trained_model_of
from .observing import is_multivariate
from .outcomes import Differs
from .script import Script, one_process


def predict_on_spark(script: Script) -> None:
    """`predict` on Spark, compared with what one process predicts for the series that were predicted together.

    The last bits of a forecast depend on how many are made at once.
    """
    import pandas

    found, together = script.session.spark.predict(script.forecaster, script.case)
    past = script.data.past
    if is_multivariate(trained_model_of(script.forecaster)):
        together = [past["unique_id"].unique().tolist()]
    with one_process(script.forecaster, script.spec) as forecaster:
        expected = [forecaster.predict(df=past[past["unique_id"].isin(ids)]) for ids in together]
    frames = [frame if "unique_id" in frame.columns else frame.reset_index() for frame in expected]
    script.compare(found, pandas.concat(frames).sort_values(["unique_id", "ds"]).reset_index(drop=True))


def fit_from_weights(script: Script) -> None:
    """`fit` of a model that has been trained, which keeps its weights at a learning rate of zero."""
    import torch

    forecaster = script.made(script.together, learning_rate=0.0)
    start_from(trained_model_of(forecaster), script.weights)
    script.fit(forecaster)
    found = weights_of(trained_model_of(forecaster))
    other = [name for name in found if not torch.equal(found[name], script.weights[name])]
    if other:
        raise Differs(f"fit has not started from {len(other)} of {len(found)} weights that the model had")
