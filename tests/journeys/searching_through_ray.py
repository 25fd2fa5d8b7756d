"""A user's search through a real ray, with two pretended GPUs: `python searching_through_ray.py OUT`.

Each process that comes to the end writes to OUT/rank-N.json what it found: the trials, a digest of the weights of the
model that was trained with the best of them, and how many processes trained it.
"""

import importlib
import json
import os
import sys

import pretended_gpus  # noqa: F401
import ray
import torch
from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoNHITS
from neuralforecast.utils import AirPassengersPanel
from ray import tune
from searching import SMALL, H, trained_by


def pretend():
    importlib.import_module("pretended_gpus")


if __name__ == "__main__":
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank == "0":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # else ray believes it, and has none to give
        there = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}, "worker_process_setup_hook": pretend}
        ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, runtime_env=there)
    config = {**SMALL, "learning_rate": tune.loguniform(1e-4, 1e-1)}
    model = AutoNHITS(h=H, config=config, num_samples=2)
    forecaster = NeuralForecast(models=[model], freq="ME")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    results = forecaster.models[0].results
    found = {
        **trained_by(forecaster),
        "trials": [[result.config["learning_rate"], result.metrics["loss"]] for result in results],
        "world": torch.distributed.get_world_size(),
    }
    with open(os.path.join(sys.argv[1], f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(found, file)
