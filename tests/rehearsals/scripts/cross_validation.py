# Temporal cross-validation of three models, evaluated by series and window.
import logging

import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, MQLoss
from neuralforecast.models import MLP, NBEATSx, NHITS
from neuralforecast.utils import AirPassengersPanel

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

horizon = 12
Y_df = AirPassengersPanel[["unique_id", "ds", "y"]]

models = [
    NHITS(
        h=horizon,
        input_size=2 * horizon,
        loss=MAE(),
        max_steps=100,
        val_check_steps=20,
    ),
    NBEATSx(
        h=horizon,
        input_size=2 * horizon,
        loss=MQLoss(level=[80]),
        scaler_type="standard",
        max_steps=100,
        val_check_steps=20,
    ),
    MLP(
        h=horizon,
        input_size=2 * horizon,
        loss=MAE(),
        hidden_size=64,
        scaler_type="robust",
        max_steps=50,
        val_check_steps=10,
    ),
]
nf = NeuralForecast(models=models, freq="ME")
cv_df = nf.cross_validation(df=Y_df, n_windows=3, step_size=horizon, val_size=horizon).reset_index()
print(cv_df.head())

errors = pd.DataFrame(
    {
        "NHITS": (cv_df["y"] - cv_df["NHITS"]).abs(),
        "NBEATSx": (cv_df["y"] - cv_df["NBEATSx-median"]).abs(),
        "MLP": (cv_df["y"] - cv_df["MLP"]).abs(),
    }
)
mae = errors.groupby([cv_df["unique_id"], cv_df["cutoff"]]).mean()
print(mae)
print(f"The best model: {mae.mean().idxmin()}")
