"""A training with arguments of Lightning's trainer: `python trainer_arguments.py OUT NAME TRAINER MODEL`.

TRAINER and MODEL are arguments as JSON; `"sampler": "own"` among the model's is a distributed sampler of the user's, as
Lightning's documentation advises it. Each rank writes to OUT/rank-N.json a digest of its weights and its losses.
"""

import hashlib
import json
import os
import sys

import torch
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.tsdataset import TimeSeriesDataModule, TimeSeriesLoader
from neuralforecast.utils import AirPassengersPanel
from small import SMALL, H
from torch.utils.data import DistributedSampler


def own_train_dataloader(datamodule):
    sampler = DistributedSampler(datamodule.dataset, shuffle=True)
    return TimeSeriesLoader(datamodule.dataset, batch_size=datamodule.batch_size, sampler=sampler)


if __name__ == "__main__":
    out, trainer, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    if options.pop("sampler", None) == "own":
        TimeSeriesDataModule.train_dataloader = own_train_dataloader
    model = NHITS(h=H, random_seed=1, accelerator="cpu", **{**SMALL, **options}, **trainer)
    forecaster = NeuralForecast(models=[model], freq="M")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    trained, digest = forecaster.models[0], hashlib.sha256()
    for _, parameter in sorted(trained.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    told = {
        "weights": digest.hexdigest(),
        "losses": [float(loss) for _, loss in trained.train_trajectories],
        "threads": torch.get_num_threads(),
    }
    with open(os.path.join(out, f"rank-{os.environ.get('LOCAL_RANK', '0')}.json"), "w", encoding="utf-8") as file:
        json.dump(told, file)
