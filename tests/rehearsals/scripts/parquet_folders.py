# More series than fit into memory: a folder of parquet files for each, as the tutorial for large datasets has it.
from pathlib import Path

import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, DistributionLoss
from neuralforecast.models import NHITS, TiDE
from neuralforecast.utils import generate_series

DATA = Path("data")
HORIZON = 7


def write(path):
    df = generate_series(n_series=5, freq="D", min_length=80, max_length=120, equal_ends=True, seed=2).reset_index()
    df["unique_id"] = "item_" + df["unique_id"].astype(str)
    df["weekday"] = df["ds"].dt.dayofweek.astype(float)
    df.to_parquet(path, partition_cols=["unique_id"], index=False)


if not DATA.exists():
    write(DATA)
folders = sorted(str(folder) for folder in DATA.glob("unique_id=*"))

models = [
    NHITS(
        h=HORIZON,
        input_size=3 * HORIZON,
        loss=DistributionLoss("Normal", level=[80]),
        hist_exog_list=["weekday"],
        scaler_type="robust",
        max_steps=200,
        val_check_steps=50,
        batch_size=2,
    ),
    TiDE(h=HORIZON, input_size=3 * HORIZON, loss=MAE(), hidden_size=32, decoder_output_dim=8, max_steps=100),
]
nf = NeuralForecast(models=models, freq="D")
nf.fit(df=folders, val_size=HORIZON)

# One series at a time is enough for the forecasts
forecasts = []
for folder in folders:
    df = pd.read_parquet(folder).assign(unique_id=folder.split("=")[-1])
    forecasts.append(nf.predict(df=df))
forecasts = pd.concat(forecasts, ignore_index=True)
forecasts.to_parquet("forecasts.parquet")
print(forecasts.groupby("unique_id")[["NHITS-median", "TiDE"]].mean())
