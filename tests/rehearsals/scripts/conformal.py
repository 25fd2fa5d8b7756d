# Intervals for a model with a point loss: from the errors of a cross-validation, by conformal prediction.
import numpy as np
import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import NHITS, BiTCN
from neuralforecast.utils import PredictionIntervals

horizon = 24
rng = np.random.default_rng(8)
hours = pd.date_range("2024-03-01", periods=24 * 12, freq="h")
daily = np.sin(2 * np.pi * hours.hour / 24)
df = pd.concat(
    pd.DataFrame({"unique_id": name, "ds": hours, "y": level * (3 + daily) + rng.normal(0, level / 5, len(hours))})
    for name, level in (("north", 10), ("south", 25), ("west", 60))
)
test = df.groupby("unique_id").tail(horizon)
train = df.drop_duplicates(["unique_id", "ds"]).merge(test[["unique_id", "ds"]], how="left", indicator=True)
train = train[train["_merge"] == "left_only"].drop(columns="_merge")

models = [
    NHITS(h=horizon, input_size=2 * horizon, loss=MAE(), max_steps=150, scaler_type="standard"),
    BiTCN(h=horizon, input_size=2 * horizon, loss=MAE(), hidden_size=8, max_steps=80, scaler_type="standard"),
]
nf = NeuralForecast(models=models, freq="h")
nf.fit(df=train, prediction_intervals=PredictionIntervals(n_windows=2, method="conformal_error"))
forecasts = nf.predict(level=[80, 95])

merged = test.merge(forecasts, on=["unique_id", "ds"])
for name in ("NHITS", "BiTCN"):
    for level in (80, 95):
        inside = merged["y"].between(merged[f"{name}-lo-{level}"], merged[f"{name}-hi-{level}"]).mean()
        print(f"{name}: {inside:.0%} inside the interval of {level}%")
