"""A user's search through a real ray, with two pretended GPUs: `python searching_through_ray.py OUT`.

Each process that comes to the end writes to OUT/rank-N.json what it found: the trials, a digest of the weights of the
model that was trained with the best of them, and how many processes trained it.
"""

import hashlib
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

H = 12


def pretend():
    importlib.import_module("pretended_gpus")


if __name__ == "__main__":
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank == "0":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # else ray believes it, and has none to give
        there = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}, "worker_process_setup_hook": pretend}
        ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, runtime_env=there)
    config = {
        "input_size": 24,
        "mlp_units": [[8, 8]] * 3,
        "max_steps": 3,
        "val_check_steps": 1,
        "learning_rate": tune.loguniform(1e-4, 1e-1),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    model = AutoNHITS(h=H, config=config, num_samples=2)
    forecaster = NeuralForecast(models=[model], freq="ME")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    (searched,) = forecaster.models
    digest = hashlib.sha256()
    for _, parameter in sorted(searched.model.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    found = {
        "trials": [[result.config["learning_rate"], result.metrics["loss"]] for result in searched.results],
        "weights": digest.hexdigest(),
        "world": torch.distributed.get_world_size(),
        "forecasts": hashlib.sha256(forecaster.predict().to_csv().encode()).hexdigest(),
    }
    with open(os.path.join(sys.argv[1], f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(found, file)
