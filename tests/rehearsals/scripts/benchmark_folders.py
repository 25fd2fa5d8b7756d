# A benchmark with a folder for each run. A run that fails is listed, and the next begins.
import json
import os

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import HuberLoss
from neuralforecast.models import KAN, MLP, NHITS
from neuralforecast.utils import AirPassengersPanel

ROOT = "benchmark"
HORIZON = 12

df = AirPassengersPanel[["unique_id", "ds", "y"]]
test = df.groupby("unique_id").tail(HORIZON)
train = df.drop(test.index)

runs = [
    ("mlp", MLP, {"hidden_size": 64, "num_layers": 2}),
    ("kan", KAN, {"hidden_size": 32}),
    ("nhits", NHITS, {"mlp_units": 3 * [[64, 64]]}),
]
failed = []
os.makedirs(ROOT, exist_ok=True)
for name, model_class, options in runs:
    folder = os.path.join(ROOT, name)
    try:
        os.mkdir(folder)
        model = model_class(
            h=HORIZON, input_size=24, loss=HuberLoss(), max_steps=200, scaler_type="robust", random_seed=1, **options
        )
        nf = NeuralForecast(models=[model], freq="ME")
        nf.fit(df=train, val_size=HORIZON)
        forecast = nf.predict()
        forecast.to_csv(os.path.join(folder, "forecast.csv"), index=False)
        merged = test.merge(forecast, on=["unique_id", "ds"])
        mae = (merged["y"] - merged[model_class.__name__]).abs().mean()
        with open(os.path.join(folder, "metrics.json"), "w") as file:
            json.dump({"mae": float(mae)}, file)
    except Exception as e:
        print(f"{name} failed: {e}")
        failed.append(name)

print(f"{len(runs) - len(failed)} of {len(runs)} runs succeeded")
