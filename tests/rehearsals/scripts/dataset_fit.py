# A model by itself, without the class NeuralForecast: fitted to a TimeSeriesDataset, as the models' own examples do it.
import numpy as np
import pandas as pd

from neuralforecast.losses.pytorch import MAE, RMSE
from neuralforecast.models import NBEATS, TFT
from neuralforecast.tsdataset import TimeSeriesDataset

rng = np.random.default_rng(1)
length, horizon = 120, 12
season = np.sin(2 * np.pi * np.arange(length) / 12)
df = pd.concat(
    pd.DataFrame(
        {
            "unique_id": f"store_{i}",
            "ds": pd.date_range("2010-01-31", periods=length, freq="ME"),
            "y": 100 * (1 + i) + 20 * season + 0.3 * np.arange(length) + rng.normal(0, 2, length),
        }
    )
    for i in range(3)
)
test = df.groupby("unique_id").tail(horizon)
train = df[df["ds"] <= df["ds"].unique()[-horizon - 1]]

dataset, *_ = TimeSeriesDataset.from_df(train)

for model in (
    NBEATS(h=horizon, input_size=24, loss=MAE(), max_steps=200, val_check_steps=50, scaler_type="standard"),
    TFT(h=horizon, input_size=24, loss=RMSE(), hidden_size=16, max_steps=100, val_check_steps=50, scaler_type="robust"),
):
    model.fit(dataset=dataset, val_size=horizon)
    y_hat = model.predict(dataset=dataset)
    mae = np.abs(test["y"].to_numpy() - np.asarray(y_hat).flatten()).mean()
    print(f"{type(model).__name__}: MAE {mae:.2f}")
    model.set_test_size(horizon)
    backtest = model.predict(dataset=dataset, step_size=horizon)
    print("shape of the backtest:", np.asarray(backtest).shape)
