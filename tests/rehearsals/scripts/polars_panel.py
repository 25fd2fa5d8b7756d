# A panel of polars: static features and a calendar, fitted, forecast, and evaluated in polars.
from datetime import date

import numpy as np
import polars as pl

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, MQLoss
from neuralforecast.models import TFT, TimesNet

HORIZON = 6
months = pl.date_range(date(2012, 1, 1), date(2020, 12, 1), "1mo", eager=True)
rng = np.random.default_rng(6)
frames = []
for i in range(4):
    y = 200 + 40 * i + 30 * np.sin(2 * np.pi * np.arange(len(months)) / 12) + rng.normal(0, 4, len(months))
    frames.append(pl.DataFrame({"series": f"plant_{i}", "month": months, "output": y}))
df = pl.concat(frames).with_columns(
    pl.col("month").cast(pl.Datetime), winter=pl.col("month").dt.month().is_in([12, 1, 2]).cast(pl.Float64)
)
static = pl.DataFrame({"series": [f"plant_{i}" for i in range(4)], "is_large": [0.0, 0.0, 1.0, 1.0]})

cut = df["month"].unique().sort()[-HORIZON]
train, test = df.filter(pl.col("month") < cut), df.filter(pl.col("month") >= cut)
columns = dict(id_col="series", time_col="month", target_col="output")

models = [
    TFT(
        h=HORIZON,
        input_size=24,
        hidden_size=16,
        n_head=2,
        loss=MQLoss(level=[80]),
        stat_exog_list=["is_large"],
        futr_exog_list=["winter"],
        max_steps=100,
        scaler_type="standard",
    ),
    TimesNet(h=HORIZON, input_size=24, hidden_size=8, conv_hidden_size=8, loss=MAE(), max_steps=60),
]
nf = NeuralForecast(models=models, freq="1mo")
nf.fit(df=train, static_df=static, val_size=HORIZON, **columns)
forecasts = nf.predict(futr_df=test.drop("output"))

merged = test.join(forecasts, on=["series", "month"], how="left")
print(
    merged.group_by("series", maintain_order=True).agg(
        (pl.col("output") - pl.col(name)).abs().mean().alias(name) for name in ("TFT-median", "TimesNet")
    )
)
merged.write_parquet("merged.parquet")
