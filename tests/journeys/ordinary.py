"""An ordinary script of a user: fit, predict, predict_insample, cross_validation, save, load, fit again.

`python ordinary.py OUT TRAINER`: TRAINER are the arguments for Lightning's trainer as JSON. Each rank writes what it
got to OUT/rank-N.json, a digest by model and call. The learning rate is 0, so that the weights are the same however
many processes there are.
"""

import hashlib
import inspect
import json
import os
import sys

if os.environ.get("PRETENDED_GPUS"):
    import pretended_gpus  # noqa: F401

import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS, MLPMultivariate
from neuralforecast.utils import AirPassengersPanel

H = 12


def panel():
    first = AirPassengersPanel[AirPassengersPanel["unique_id"] == "Airline1"][["unique_id", "ds", "y"]]
    return pd.concat(
        [first.assign(unique_id=f"series-{number}", y=first["y"] * 30.0**number) for number in range(3)],
        ignore_index=True,
    )


def model_of(model_class, trainer):
    more = {"n_series": 3, "hidden_size": 8} if model_class is MLPMultivariate else {"mlp_units": [[8, 8]] * 3}
    return model_class(
        h=H,
        input_size=24,
        max_steps=3,
        learning_rate=0.0,
        val_check_steps=1,
        random_seed=1,
        logger=False,
        enable_progress_bar=False,
        **more,
        **trainer,
    )


def digest_of(frame):
    frame = frame if "unique_id" in frame.columns else frame.reset_index()
    text = frame.to_csv(index=False, float_format="%.17g")
    return f"{len(frame)} rows {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def journey(model_class, trainer, folder):
    data, told = panel(), {}
    forecaster = NeuralForecast(models=[model_of(model_class, trainer)], freq="M")
    forecaster.fit(df=data, val_size=H)
    losses = [float(loss) for _, loss in forecaster.models[0].valid_trajectories]
    told["validation"] = [f"{loss:.6g}" for loss in losses]
    if model_class is NHITS:  # of multivariate models 1.x refuses it, in one process as well
        told["predict_insample"] = digest_of(forecaster.predict_insample(step_size=1))
    told["predict"] = digest_of(forecaster.predict())
    forecaster.save(folder)
    told["load, predict"] = digest_of(NeuralForecast.load(folder).predict())
    forecaster.fit(df=data, val_size=H)
    told["fit again, predict"] = digest_of(forecaster.predict())
    knows_refit = "refit" in inspect.signature(NeuralForecast.cross_validation).parameters
    for options in [{}, {"refit": True}] if knows_refit else [{}]:
        forecaster = NeuralForecast(models=[model_of(model_class, trainer)], freq="M")
        frame = forecaster.cross_validation(df=data, n_windows=2, step_size=H, **options)
        told[f"cross_validation {options}"] = digest_of(frame)
    return told


if __name__ == "__main__":
    out, trainer = sys.argv[1], json.loads(sys.argv[2])
    rank = os.environ.get("LOCAL_RANK", "0")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 do not load with torch 2.6 otherwise
    told = {
        each.__name__: journey(each, trainer, os.path.join(out, f"saved-{each.__name__}"))
        for each in (NHITS, MLPMultivariate)
    }
    with open(os.path.join(out, f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(told, file)
