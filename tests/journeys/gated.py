"""Train, but pause when the training starts until the test lets it continue: `torchrun gated.py FOLDER PORT`.

Each rank connects to the port when its training starts, and continues when it receives a byte. Then it trains, saves,
loads, predicts, and writes the number of rows of the forecasts to FOLDER/rank-N.json.
"""

import json
import os
import socket
import sys

import pytorch_lightning as pl
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

FOLDER, PORT = sys.argv[1], int(sys.argv[2])


class Gate(pl.Callback):
    """Waits until the test sends a byte."""

    def on_train_start(self, trainer, module):
        with socket.create_connection(("127.0.0.1", PORT)) as gate:
            gate.recv(1)


if __name__ == "__main__":
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 need it to load with torch 2.6
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False, "enable_progress_bar": False}
    model = NHITS(h=12, input_size=24, mlp_units=[[8, 8]] * 3, max_steps=3, callbacks=[Gate()], **trainer)
    forecaster = NeuralForecast(models=[model], freq="M")
    forecaster.fit(df=AirPassengersPanel[["unique_id", "ds", "y"]], val_size=12)
    forecaster.save(os.path.join(FOLDER, "saved"))
    rows = [len(forecaster.predict()), len(NeuralForecast.load(os.path.join(FOLDER, "saved")).predict())]
    with open(os.path.join(FOLDER, f"rank-{os.environ['RANK']}.json"), "w", encoding="utf-8") as file:
        json.dump(rows, file)
