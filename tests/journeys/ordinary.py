"""An ordinary user script: fit, predict, predict_insample, cross_validation, save, load, fit again.

`python ordinary.py OUT TRAINER MODEL...`: TRAINER is the JSON object of arguments for Lightning's trainer. Each process
that reaches the end of the script writes its results to OUT/rank-N.json, a digest by model and call; each rank that
trains writes the world size to OUT/world-N. The learning rate is 0, so that weights do not depend on the world size.
"""

import hashlib
import inspect
import json
import os
import sys

if os.environ.get("PRETENDED_GPUS"):
    import pretended_gpus

    pretended_gpus.pretend(2)

import pandas as pd
import pytorch_lightning as pl
import torch
from neuralforecast import NeuralForecast, models
from neuralforecast.losses import pytorch as losses
from neuralforecast.utils import AirPassengersPanel
from pytorch_lightning.strategies import DDPStrategy

H = 12
SIZES = {
    "NHITS": {"mlp_units": [[8, 8]] * 3},
    "GRU": {"encoder_hidden_size": 8, "decoder_hidden_size": 8},
    "TFT": {"hidden_size": 4, "n_head": 1},
    "MLPMultivariate": {"n_series": 3, "hidden_size": 8},
}


class Counter(pl.Callback):
    """Writes the world size to a file. Defined at module level, so that ddp_spawn can pickle it."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_start(self, trainer, module):
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        with open(os.path.join(self.folder, f"world-{trainer.global_rank}"), "w", encoding="utf-8") as file:
            file.write(str(torch.distributed.get_world_size() if group else 1))


def panel():
    first = AirPassengersPanel[AirPassengersPanel["unique_id"] == "Airline1"][["unique_id", "ds", "y"]]
    return pd.concat(
        [first.assign(unique_id=f"series-{number}", y=first["y"] * 30.0**number) for number in range(3)],
        ignore_index=True,
    )


def model_of(model_name, trainer):
    return getattr(models, model_name)(
        h=H,
        input_size=24,
        max_steps=3,
        learning_rate=0.0,
        val_check_steps=1,
        random_seed=1,
        logger=False,
        enable_progress_bar=False,
        **SIZES[model_name],
        **trainer,
    )


def digest_of(frame):
    frame = frame if "unique_id" in frame.columns else frame.reset_index()
    text = frame.to_csv(index=False, float_format="%.17g")
    return f"{len(frame)} rows {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def journey(model_name, trainer, folder):
    data, results = panel(), {}
    # In a fit of its own, as a model with this callback could not be saved
    watched = {**trainer, "callbacks": [Counter(os.path.dirname(folder))]}
    NeuralForecast(models=[model_of(model_name, watched)], freq="M").fit(df=data)
    forecaster = NeuralForecast(models=[model_of(model_name, trainer)], freq="M")
    forecaster.fit(df=data, val_size=H)
    validated = [float(loss) for _, loss in forecaster.models[0].valid_trajectories]
    results["validation"] = [f"{loss:.6g}" for loss in validated]
    if model_name != "MLPMultivariate":  # 1.x rejects it, in a single process as well
        results["predict_insample"] = digest_of(forecaster.predict_insample(step_size=1))
    results["predict"] = digest_of(forecaster.predict())
    forecaster.save(folder)
    results["load, predict"] = digest_of(NeuralForecast.load(folder).predict())
    if model_name == "NHITS" and hasattr(NeuralForecast, "simulate"):
        loss = losses.MQLoss(level=[80])
        sampled = NeuralForecast(models=[model_of(model_name, {**trainer, "loss": loss})], freq="M")
        sampled.fit(df=data, val_size=H)
        results["simulate"] = digest_of(sampled.simulate(n_paths=5))
    forecaster.fit(df=data, val_size=H)
    results["fit again, predict"] = digest_of(forecaster.predict())
    knows_refit = "refit" in inspect.signature(NeuralForecast.cross_validation).parameters
    for options in [{}, {"refit": True}] if knows_refit else [{}]:
        forecaster = NeuralForecast(models=[model_of(model_name, trainer)], freq="M")
        frame = forecaster.cross_validation(df=data, n_windows=2, step_size=H, **options)
        results[f"cross_validation {options}"] = digest_of(frame)
    return results


if __name__ == "__main__":
    out, trainer, names = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
    if trainer.get("strategy") == "an object":  # one object for all trainings of all models
        trainer["strategy"] = DDPStrategy(find_unused_parameters=False)
    rank = os.environ.get("LOCAL_RANK", "0")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 need it to load with torch 2.6
    results = {each: journey(each, trainer, os.path.join(out, f"saved-{each}")) for each in names}
    with open(os.path.join(out, f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(results, file)
