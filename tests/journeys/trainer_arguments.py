"""Train with given arguments of Lightning's trainer: `python trainer_arguments.py OUT TRAINER MODEL`.

TRAINER and MODEL are JSON objects of arguments; `"sampler": "own"` in MODEL stands for the user's own distributed
sampler, as Lightning's documentation has it. Each rank writes its number of threads to OUT/threads-RANK, and each
process a digest of the weights and the losses of its rank to OUT/rank-N.json.
"""

import hashlib
import json
import os
import sys

from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.tsdataset import TimeSeriesDataModule, TimeSeriesLoader
from neuralforecast.utils import AirPassengersPanel
from small import SMALL, H
from threads_writer import ThreadsWriter
from torch.utils.data import DistributedSampler


def own_train_dataloader(datamodule):
    sampler = DistributedSampler(datamodule.dataset, shuffle=True)
    return TimeSeriesLoader(datamodule.dataset, batch_size=datamodule.batch_size, sampler=sampler)


if __name__ == "__main__":
    out, trainer, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    if options.pop("sampler", None) == "own":
        TimeSeriesDataModule.train_dataloader = own_train_dataloader
    callbacks = [ThreadsWriter(out, deadline=100)]
    model = NHITS(h=H, random_seed=1, accelerator="cpu", callbacks=callbacks, **{**SMALL, **options}, **trainer)
    forecaster = NeuralForecast(models=[model], freq="M")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    trained, digest = forecaster.models[0], hashlib.sha256()
    for _, parameter in sorted(trained.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    results = {"weights": digest.hexdigest(), "losses": [float(loss) for _, loss in trained.train_trajectories]}
    with open(os.path.join(out, f"rank-{os.environ.get('LOCAL_RANK', '0')}.json"), "w", encoding="utf-8") as file:
        json.dump(results, file)
