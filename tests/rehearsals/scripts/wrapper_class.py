# A forecaster with the methods of scikit-learn around NeuralForecast, with a folder of its own for what it saves.
import json
from pathlib import Path

import numpy as np
import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import NHITS


class DemandForecaster:
    def __init__(self, horizon, freq="D", **model_options):
        self.horizon = horizon
        self.freq = freq
        self.model_options = model_options

    def fit(self, sales):
        model = NHITS(
            h=self.horizon,
            input_size=3 * self.horizon,
            loss=MQLoss(level=[80]),
            scaler_type="standard",
            **self.model_options,
        )
        self.nf_ = NeuralForecast(models=[model], freq=self.freq)
        self.nf_.fit(df=self._long(sales), val_size=self.horizon)
        return self

    def predict(self):
        return self.nf_.predict().reset_index()

    def save(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.nf_.save(path=str(folder / "model"), model_index=None, overwrite=True, save_dataset=True)
        meta = {"horizon": self.horizon, "freq": self.freq, "model_options": self.model_options}
        (folder / "meta.json").write_text(json.dumps(meta))

    @classmethod
    def load(cls, folder):
        meta = json.loads(Path(folder, "meta.json").read_text())
        forecaster = cls(meta["horizon"], meta["freq"], **meta["model_options"])
        forecaster.nf_ = NeuralForecast.load(path=str(Path(folder, "model")))
        return forecaster

    @staticmethod
    def _long(sales):
        return sales.rename_axis("ds").reset_index().melt(id_vars="ds", var_name="unique_id", value_name="y")


rng = np.random.default_rng(3)
days = pd.date_range("2022-01-01", periods=200, freq="D")
weekly = 10 * np.sin(2 * np.pi * np.arange(200) / 7)
sales = pd.DataFrame({f"shop_{i}": 50 + 5 * i + weekly + rng.normal(size=200) for i in range(5)}, index=days)

forecaster = DemandForecaster(horizon=7, max_steps=150, learning_rate=1e-3, random_seed=11).fit(sales)
print(forecaster.predict().head())
forecaster.save("models/demand")
again = DemandForecaster.load("models/demand")
print(again.predict().groupby("unique_id").mean(numeric_only=True))
