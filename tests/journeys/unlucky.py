"""A script of a user who goes on after an error: of two series, the second has nothing to train on.

`python unlucky.py OUT TRAINER`: TRAINER are the arguments for Lightning's trainer as JSON. Each process writes to
OUT/rank-N.json the words of the error, and how many steps it trains with other data afterwards.
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
    lucky, unlucky = panel, panel[~is_last | (is_last & (is_last.cumsum() > is_last.sum() - H))]
    told = []
    for data in (unlucky, lucky):
        model = NHITS(h=H, input_size=24, max_steps=3, mlp_units=[[8, 8]] * 3, logger=False, **trainer)
        forecaster = NeuralForecast(models=[model], freq="M")
        try:
            forecaster.fit(df=data, val_size=H)
            told.append(len(forecaster.models[0].train_trajectories))
        except Exception as error:  # the next one may be luckier
            told.append(str(error))
    with open(os.path.join(out, f"rank-{os.environ.get('LOCAL_RANK', '0')}.json"), "w", encoding="utf-8") as file:
        json.dump(told, file)
