# Which model forecasts best? One that fails does not end the comparison.
import time

import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, MQLoss
from neuralforecast.models import DLinear, NBEATSx, NHITS, TFT
from neuralforecast.utils import generate_series

horizon = 7
series = generate_series(n_series=6, freq="D", min_length=120, max_length=150, seed=1).reset_index()
series["unique_id"] = series["unique_id"].astype(str)
test = series.groupby("unique_id").tail(horizon)
train = series.drop(test.index)

common = dict(h=horizon, input_size=2 * horizon, max_steps=100, scaler_type="robust", start_padding_enabled=True)
candidates = {
    "NHITS": lambda: NHITS(loss=MAE(), **common),
    "TFT": lambda: TFT(loss=MAE(), hidden_size=16, n_head=2, **common),
    "NBEATSx": lambda: NBEATSx(loss=MQLoss(level=[90]), **common),
    "Typo": lambda: NHITS(loss=MAE(), n_pool_kernel=[2, 2, 1], **common),
    "DLinear": lambda: DLinear(loss=MAE(), moving_avg_window=7, **common),
}

results, failures = [], {}
for name, build in candidates.items():
    start = time.perf_counter()
    try:
        nf = NeuralForecast(models=[build()], freq="D")
        nf.fit(df=train)
        forecast = nf.predict().reset_index()
    except Exception as e:
        print(f"{name} failed: {e}")
        failures[name] = repr(e)
        continue
    merged = test.merge(forecast, on=["unique_id", "ds"], how="left")
    column = next(c for c in merged.columns if c.startswith(name) and not c.endswith(("-lo-90", "-hi-90")))
    mae = (merged["y"] - merged[column]).abs().mean()
    results.append({"model": name, "mae": mae, "seconds": time.perf_counter() - start})

print(pd.DataFrame(results).sort_values("mae").to_string(index=False))
print("Failed:", ", ".join(failures) or "none")
