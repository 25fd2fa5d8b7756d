"""A search with a real ray: `python searching_through_ray.py OUT DEVICES`.

DEVICES is "one" or "two", as CPU devices that the configuration names, or "gpus": two pretended GPUs that it does not
name. With "gpus" each trial writes the device that it was given to OUT, and waits until the other trial is training as
well. Each process that reaches the end writes the results to OUT/rank-N.json: the trials, a digest of the weights of
the model that was trained with the best of them, and the world size of that training.
"""

import inspect
import json
import os
import sys
import time

if __name__ == "__main__" and sys.argv[2] == "gpus":
    import pretended_gpus

    pretended_gpus.pretend(2)

import neuralforecast
import pytorch_lightning as pl
import ray
import torch
from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoNHITS
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel
from ray import tune
from small import SMALL, H, trained_by

OUT = sys.argv[1] if __name__ == "__main__" else ""
# Seconds that a trial waits for the other. Trials that run one after the other fail by it.
TIMEOUT_SECONDS = 60


class WaitForOtherTrial(pl.Callback):
    """Makes a trial wait until the other one has started."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_start(self, trainer, module):
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if trainer.world_size > 1 or not device:  # not a trial
            return
        with open(os.path.join(self.folder, f"trial-on-{device}"), "w", encoding="utf-8"):
            pass
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while sum(name.startswith("trial-on-") for name in os.listdir(self.folder)) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError("no other trial is running")
            time.sleep(0.05)


def ray_with_two_gpus(*, begin=ray.init, **options):
    """`ray.init` as it works on a machine with two GPUs."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # an empty value makes ray see no GPU
    variables = {"PYTHONPATH": os.environ["PYTHONPATH"], "NFPATCH_PRETENDED_GPUS": "2"}
    return begin(num_cpus=2, num_gpus=2, include_dashboard=False, runtime_env={"env_vars": variables}, **options)


def fit_with_ray(tuner, fit=tune.Tuner.fit):
    """`Tuner.fit`, which starts ray first."""
    if not ray.is_initialized():
        ray.init(address="local", log_to_driver=True)
    return fit(tuner)


if __name__ == "__main__":
    devices = sys.argv[2]
    config = {**SMALL, "learning_rate": tune.loguniform(1e-4, 1e-1)}
    if devices == "two":
        config.update(accelerator="cpu", devices=2, strategy="ddp")
    if devices == "gpus":
        ray.init, tune.Tuner.fit = ray_with_two_gpus, fit_with_ray
        config.update(strategy="ddp", callbacks=[WaitForOtherTrial(OUT)])
    if neuralforecast.__version__ < "1.7":  # it sets its own progress bar, and may fail to pickle a callback
        del config["enable_progress_bar"]
        config.pop("callbacks", None)
    if "val_check_steps" not in inspect.signature(NHITS.__init__).parameters:
        del config["val_check_steps"]
    model = AutoNHITS(h=H, config=config, num_samples=2)
    forecaster = NeuralForecast(models=[model], freq="M" if pl.__version__ < "2" else "ME")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    results = getattr(forecaster, "models_fitted", forecaster.models)[0].results
    found = {
        **trained_by(forecaster),
        "trials": [[result.config["learning_rate"], result.metrics["loss"]] for result in results],
        "world": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
    }
    rank = os.environ.get("LOCAL_RANK", "0")
    with open(os.path.join(OUT, f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(found, file)
