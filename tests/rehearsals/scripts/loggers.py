# The training and the validation loss in Lightning's loggers.
from pathlib import Path

import pandas as pd
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import NHITS, TCN
from neuralforecast.utils import AirPassengersPanel

horizon = 12
try:
    tcn_logger = TensorBoardLogger("logs", name="tcn")
except ModuleNotFoundError:  # tensorboard is not installed
    tcn_logger = CSVLogger("logs", name="tcn")

models = [
    NHITS(
        h=horizon,
        input_size=2 * horizon,
        loss=MAE(),
        max_steps=100,
        val_check_steps=20,
        logger=CSVLogger("logs", name="nhits"),
        log_every_n_steps=10,
    ),
    TCN(
        h=horizon,
        input_size=2 * horizon,
        loss=MAE(),
        encoder_hidden_size=32,
        decoder_hidden_size=32,
        max_steps=60,
        val_check_steps=20,
        logger=tcn_logger,
        log_every_n_steps=10,
    ),
]
nf = NeuralForecast(models=models, freq="ME")
nf.fit(df=AirPassengersPanel, val_size=horizon)
print(nf.predict().head())

# neuralforecast trains a copy of the model, and so of the logger: look where it has written
metrics_path = max(Path("logs/nhits").glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime)
metrics = pd.read_csv(metrics_path)
print(metrics.groupby("step").mean())
print("Validation loss by step:", nf.models[0].valid_trajectories)
