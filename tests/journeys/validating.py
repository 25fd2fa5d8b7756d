"""Trainings that validate batches of series: `python validating.py OUT TRAINER`; each rank writes OUT/rank-N.json.

The learning rate is 0, so that the weights do not depend on the world size. The results: the loss and step of each
validation, the metrics that callbacks read, how many batches a user's own class validated, the states of the random
number generators before and after each validation, and the error of the training.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import neuralforecast.models
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import GMM, MAE, MASE, RMSE, DistributionLoss, MQLoss, sCRPS

H = 4
BATCHES = {"valid_batch_size": 4}
UNITS = {"mlp_units": [[8, 8]] * 3, **BATCHES}
LEVEL = [80, 90]
NORMAL = DistributionLoss("Normal", level=LEVEL)
MIXTURE = GMM(n_components=2, level=LEVEL)
STOPPING = {"early_stop_patience_steps": 1, "max_steps": 8}
# Validation draws random numbers: only the validation before the training can match that of one process
DRAWING = {"num_sanity_val_steps": -1, "max_steps": 1}
SEEN: list[dict[str, str]] = []
GENERATORS: list[list[str]] = []
ASKED: list[int] = []


class Metrics(pl.Callback):
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        GENERATORS.append([state_of_generators()])

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {name: value for name, value in trainer.callback_metrics.items() if "val" in name}
        SEEN.append({name: float(value).hex() for name, value in metrics.items()})
        GENERATORS[-1].append(state_of_generators())


class Failing(MAE):
    """Raises on one of the batches."""

    def __call__(self, y: Any, **arguments: Any) -> Any:
        if (y > 1200).any() and (y < 1400).any():
            raise ValueError("no loss")
        return super().__call__(y=y, **arguments)


class Overriding(neuralforecast.models.NHITS):
    """A user's own class, which validates all batches on every rank."""

    def validation_step(self, *arguments: Any) -> Any:
        ASKED.append(1)
        return super().validation_step(*arguments)


def reconciled(**options: Any) -> Any:
    """HINT whose first series is the sum of the others."""
    sums = np.vstack([np.ones(22), np.eye(22)])
    model = neuralforecast.models.NHITS(**options)
    return neuralforecast.models.HINT(h=H, S=sums, model=model, reconciliation="BottomUp")


OWN = {"HINT": reconciled, "Overriding": Overriding}


def state_of_generators() -> str:
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    return hashlib.sha256(pickle.dumps(states)).hexdigest()


def panel(n_series: int) -> pd.DataFrame:
    """Series of different lengths and levels."""
    series = []
    for number in range(n_series):
        days = pd.date_range("2024-01-01", periods=40 + 5 * (number % 4))
        values = 100 * number + np.arange(len(days)) % 7 + 1.0
        series.append(pd.DataFrame({"unique_id": f"s{number:02d}", "ds": days, "y": values}))
    return pd.concat(series)


def train(trainer: dict[str, Any], name: str = "NHITS", n_ids: int = 23, **options: Any) -> dict[str, Any]:
    """Train, and return the results of its validations."""
    for seen in (SEEN, GENERATORS, ASKED):
        seen.clear()
    common = {"h": H, "input_size": 2 * H, "max_steps": 4, "val_check_steps": 2, "learning_rate": 0.0}
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    chosen = {"loss": MAE(), "num_sanity_val_steps": 0, "callbacks": [Metrics()], **options}
    error, losses = None, []
    try:
        class_ = OWN[name] if name in OWN else getattr(neuralforecast.models, name)
        model = class_(**{**common, **quiet, **chosen, **trainer})
        forecaster = NeuralForecast(models=[model], freq="D")
        forecaster.fit(df=panel(n_ids), val_size=2 * H)
    except Exception as raised:  # some releases have no MASE, or no such model
        error = f"{type(raised).__name__}: {raised}"
    else:
        trained = forecaster.models[0]
        losses = getattr(getattr(trained, "model", trained), "valid_trajectories", ())
    return {
        "losses": [[step, float(loss).hex()] for step, loss in losses],
        "metrics": list(SEEN),
        "asked": len(ASKED),
        "generators": list(GENERATORS),
        "error": error,
    }


def train_all(trainer: dict[str, Any]) -> dict[str, Any]:
    """The results of all trainings, by name."""
    sampled = {"valid_loss": sCRPS(level=LEVEL), **UNITS, **DRAWING}
    return {
        "MAE": train(trainer, **UNITS),
        "RMSE": train(trainer, valid_loss=RMSE(), **UNITS, **STOPPING),
        "MASE": train(trainer, valid_loss=MASE(seasonality=2), **UNITS),
        "MQLoss": train(trainer, loss=MQLoss(level=LEVEL), **UNITS, **STOPPING),
        "valid_loss": train(trainer, val_monitor="valid_loss", **UNITS, **STOPPING),
        "distribution": train(trainer, loss=NORMAL, **UNITS),
        "HINT": train(trainer, "HINT", loss=MIXTURE, **UNITS),
        "GRU": train(trainer, "GRU", encoder_hidden_size=8, decoder_hidden_size=8, **BATCHES),
        "multivariate": train(trainer, "MLPMultivariate", n_series=23, hidden_size=8),
        "few batches": train(trainer, n_ids=3, **UNITS),
        "own class": train(trainer, "Overriding", **UNITS),
        "failing": train(trainer, valid_loss=Failing(), **UNITS),
        "drawing": train(trainer, loss=NORMAL, **sampled),
        "drawing HINT": train(trainer, "HINT", loss=MIXTURE, **sampled),
        "drawing DeepAR": train(trainer, "DeepAR", loss=NORMAL, lstm_hidden_size=8, **BATCHES, **DRAWING),
    }


if __name__ == "__main__":
    found = train_all(json.loads(sys.argv[2]))
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    (Path(sys.argv[1]) / f"rank-{rank}.json").write_text(json.dumps(found))
