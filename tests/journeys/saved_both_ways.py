"""Save models with one source, and load them with another.

`python saved_both_ways.py save FOLDER` trains and saves each model, in one process or by torchrun; `python
saved_both_ways.py load FOLDER` loads them in one process. Each process prints a digest of the forecasts of each model,
as one line of JSON.
"""

import hashlib
import inspect
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from neuralforecast import NeuralForecast, models
from neuralforecast.auto import AutoNHITS
from neuralforecast.losses import pytorch as losses
from neuralforecast.utils import AirPassengersPanel

H = 12
TRAINER = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
if WORLD_SIZE > 1:
    TRAINER.update(devices=WORLD_SIZE, strategy="ddp")
COMMON = {"h": H, "input_size": 24, "max_steps": 2, "random_seed": 1, **TRAINER}
NHITS = {"mlp_units": [[8, 8]] * 3}


class Counter(pl.Callback):
    """A user's own callback, which releases up to 3.2.2 save with the model."""

    def __init__(self):
        self.epochs = 0

    def on_train_epoch_end(self, trainer, module):
        self.epochs += 1


def config(trial):
    common = {name: value for name, value in COMMON.items() if name != "h"}
    return {**common, **NHITS, "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)}


def panel():
    frame = AirPassengersPanel[["unique_id", "ds", "y"]]
    total = frame.groupby("ds", as_index=False)["y"].sum().assign(unique_id="total")
    return pd.concat([total, frame], ignore_index=True)


def hint():
    model = models.NHITS(loss=losses.GMM(n_components=2, level=[80]), **NHITS, **COMMON)
    return models.HINT(h=H, S=np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), model=model, reconciliation="BottomUp")


# Name of the folder -> how to make the model.
MAKERS = {
    "callbacks": lambda: models.NHITS(callbacks=[Counter()], **NHITS, **COMMON),
    "scaler": lambda: models.NHITS(scaler_type="revin", **NHITS, **COMMON),
    "hint": hint,
    "search": lambda: AutoNHITS(h=H, config=config, backend="optuna", num_samples=1, loss=losses.MAE()),
    "DilatedRNN": lambda: models.DilatedRNN(cell_type="ResLSTM", encoder_hidden_size=8, **COMMON),
    "FEDformer": lambda: models.FEDformer(hidden_size=8, conv_hidden_size=8, **COMMON),
    "StemGNN": lambda: models.StemGNN(n_series=3, multi_layer=1, **COMMON),
    "TiDE": lambda: models.TiDE(hidden_size=8, **COMMON),
    "TimeMixer": lambda: models.TimeMixer(n_series=3, d_model=8, d_ff=8, use_norm=False, **COMMON),
    "RMoK": lambda: models.RMoK(n_series=3, **COMMON),
    "SOFTSSharp": lambda: models.SOFTSSharp(n_series=3, hidden_size=8, d_core=8, d_ff=8, e_layers=1, **COMMON),
}


def digest_of(forecaster):
    torch.manual_seed(1)  # HINT draws samples
    frame = forecaster.predict(df=panel())
    frame = frame if "unique_id" in frame.columns else frame.reset_index()
    return hashlib.sha256(frame.to_csv(index=False, float_format="%.17g").encode()).hexdigest()


def save(folder):
    digests = {}
    for name, make in MAKERS.items():
        if name[0].isupper() and not hasattr(models, name):
            continue
        forecaster = NeuralForecast(models=[make()], freq="M")
        forecaster.fit(df=panel(), val_size=H)
        try:
            forecaster.save(os.path.join(folder, name), overwrite=True)
        except ValueError:  # 3.3.0 cannot save HINT
            continue
        digests[name] = digest_of(forecaster)
    return digests


def load(folder):
    allows_pickle = "allow_pickle" in inspect.signature(NeuralForecast.load).parameters
    options = {"allow_pickle": True} if allows_pickle else {}
    digests = {}
    for name in sorted(path.name for path in Path(folder).iterdir() if any(path.iterdir())):
        forecaster = NeuralForecast.load(os.path.join(folder, name), **options)
        for model in forecaster.models:  # the model inside HINT predicts
            getattr(model, "model", model).trainer_kwargs.update(devices=1, strategy="auto")
        digests[name] = digest_of(forecaster)
    return digests


if __name__ == "__main__":
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 need it to load with torch 2.6
    digests = {"save": save, "load": load}[sys.argv[1]](sys.argv[2])
    sys.stdout.write(json.dumps(digests) + "\n")  # at once, as another rank may write as well
