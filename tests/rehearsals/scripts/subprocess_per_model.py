"""Each model is trained in a process of its own, so that its memory is free again: python subprocess_per_model.py"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

OUTPUT = Path("per_model")
MODELS = ("NHITS", "LSTM")


def train(name, horizon):
    from neuralforecast import NeuralForecast, models
    from neuralforecast.utils import AirPassengersPanel

    df = AirPassengersPanel[["unique_id", "ds", "y"]]
    options = {"LSTM": {"encoder_hidden_size": 16, "decoder_hidden_size": 16}}.get(name, {})
    model = getattr(models, name)(h=horizon, input_size=24, max_steps=100, scaler_type="robust", **options)
    nf = NeuralForecast(models=[model], freq="ME")
    nf.fit(df=df, val_size=horizon)
    nf.predict().reset_index().to_csv(OUTPUT / f"{name}.csv", index=False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--horizon", type=int, default=12)
    args = parser.parse_args()
    if args.model is not None:
        train(args.model, args.horizon)
        return

    OUTPUT.mkdir(exist_ok=True)
    for name in MODELS:
        command = [sys.executable, __file__, "--model", name, "--horizon", str(args.horizon)]
        subprocess.run(command, check=True)
    forecasts = [pd.read_csv(OUTPUT / f"{name}.csv").set_index(["unique_id", "ds"])[name] for name in MODELS]
    print(pd.concat(forecasts, axis=1).mean(axis=1).head())


if __name__ == "__main__":
    main()
