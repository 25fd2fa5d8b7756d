"""Trainings that validate batches of series: `python validating.py OUT TRAINER`; each rank writes OUT/rank-N.json.

The learning rate is 0, so that any number of ranks has the weights of one process. What is written: the losses of each
validation with their steps, what callbacks read, and the error that ended the training.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, MASE, RMSE, DistributionLoss, MQLoss, sCRPS
from neuralforecast.models import GRU, NHITS

H = 4
UNITS = {"mlp_units": [[8, 8]] * 3}
NORMAL = {"loss": DistributionLoss("Normal", level=[80]), **UNITS}
STOPPING = {"early_stop_patience_steps": 1, "max_steps": 8}
SEEN: list[dict[str, str]] = []


class Metrics(pl.Callback):
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {name: value for name, value in trainer.callback_metrics.items() if "val" in name}
        SEEN.append({name: float(value).hex() for name, value in metrics.items()})


class Failing(MAE):
    """Has no loss for one of the batches."""

    def __call__(self, y: Any, **arguments: Any) -> Any:
        if (y > 1200).any() and (y < 1400).any():
            raise ValueError("no loss")
        return super().__call__(y=y, **arguments)


def panel(n_series: int) -> pd.DataFrame:
    """Series of unequal length, whose values lie apart."""
    lengths = [40 + 5 * (number % 4) for number in range(n_series)]
    return pd.concat(
        pd.DataFrame({"unique_id": f"s{n:02d}", "ds": np.arange(length), "y": 100 * n + np.arange(length) % 7 + 1.0})
        for n, length in enumerate(lengths)
    )


def train(trainer: dict[str, Any], model: Any = NHITS, n_series: int = 23, **options: Any) -> dict[str, Any]:
    """What a training says of its validations."""
    SEEN.clear()
    common = {"h": H, "input_size": 2 * H, "max_steps": 4, "val_check_steps": 2, "learning_rate": 0.0}
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    chosen = {"loss": MAE(), "valid_batch_size": 4, "num_sanity_val_steps": 0, "callbacks": [Metrics()], **options}
    forecaster = NeuralForecast(models=[model(**{**common, **quiet, **chosen, **trainer})], freq=1)
    error = None
    try:
        forecaster.fit(df=panel(n_series), val_size=2 * H)
    except Exception as raised:  # some releases have no MASE
        error = f"{type(raised).__name__}: {raised}"
    losses = [[step, float(loss).hex()] for step, loss in getattr(forecaster.models[0], "valid_trajectories", ())]
    return {"losses": losses, "metrics": list(SEEN), "error": error}


def train_all(trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainings by name. Where random numbers are drawn, only the validation before the training is compared."""
    drawing = {"valid_loss": sCRPS(level=[80]), "num_sanity_val_steps": -1, "max_steps": 1, **NORMAL}
    return {
        "MAE": train(trainer, **UNITS),
        "RMSE": train(trainer, valid_loss=RMSE(), **UNITS, **STOPPING),
        "MASE": train(trainer, valid_loss=MASE(seasonality=2), **UNITS),
        "MQLoss": train(trainer, loss=MQLoss(level=[80]), val_monitor="valid_loss", **UNITS, **STOPPING),
        "distribution": train(trainer, **NORMAL),
        "GRU": train(trainer, GRU, encoder_hidden_size=8, decoder_hidden_size=8),
        "few batches": train(trainer, n_series=3, **UNITS),
        "drawing": train(trainer, **drawing),
        "failing": train(trainer, valid_loss=Failing(), **UNITS),
    }


if __name__ == "__main__":
    found = train_all(json.loads(sys.argv[2]))
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    (Path(sys.argv[1]) / f"rank-{rank}.json").write_text(json.dumps(found))
