"""A script that continues after an error: the second of two series is too short to train on.

`python continuing.py OUT TRAINER`: TRAINER is the JSON object of arguments for Lightning's trainer. Each process writes
to OUT/rank-N.json the message of the error, and the number of steps of a training with complete data after it.
"""

import json
import os
import sys

from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

H = 12

if __name__ == "__main__":
    out, trainer = sys.argv[1], json.loads(sys.argv[2])
    panel = AirPassengersPanel[["unique_id", "ds", "y"]]
    is_last = panel["unique_id"] == "Airline2"
    complete, too_short = panel, panel[~is_last | (is_last & (is_last.cumsum() > is_last.sum() - H))]
    results = []
    for data in (too_short, complete):
        model = NHITS(h=H, input_size=24, max_steps=3, mlp_units=[[8, 8]] * 3, logger=False, **trainer)
        forecaster = NeuralForecast(models=[model], freq="M")
        try:
            forecaster.fit(df=data, val_size=H)
            results.append(len(forecaster.models[0].train_trajectories))
        except Exception as error:  # continue with the next data
            results.append(str(error))
    with open(os.path.join(out, f"rank-{os.environ.get('LOCAL_RANK', '0')}.json"), "w", encoding="utf-8") as file:
        json.dump(results, file)
