"""Train in forked processes, as in a notebook: `python forked.py OUT STRATEGY THREADS DEADLINE STAGE...`.

The parent process has used THREADS threads of torch before it forks. A STAGE is "single" (one process trains), "script"
(fit, predict, fit, cross_validation in two forked processes) or "search" (an Optuna search in two forked processes).
Each process that trains appends its number of threads to OUT/threads-RANK, one line per training. A training that takes
more than DEADLINE seconds prints a traceback and exits. The results are in OUT/rank-0.json.
"""

import hashlib
import json
import multiprocessing
import os
import sys

import torch
from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoNHITS
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel
from small import SMALL, H
from threads_writer import ThreadsWriter

OUT, STRATEGY, THREADS, DEADLINE = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
TWO = {"accelerator": "cpu", "devices": 2, "strategy": STRATEGY}


def forecaster_with(trainer):
    model = NHITS(h=H, random_seed=1, **{**SMALL, "mlp_units": [[256, 256]] * 3}, **trainer)
    return NeuralForecast(models=[model], freq="M")


def digest_of(model):
    digest = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def train_in_one_process():
    forecaster = forecaster_with({"accelerator": "cpu", "devices": 1, "callbacks": []})
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    return digest_of(forecaster.models[0])


def run_script():
    forecaster = forecaster_with({**TWO, "callbacks": [ThreadsWriter(OUT, DEADLINE)]})
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    rows = [len(forecaster.predict())]
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    rows.append(len(forecaster.cross_validation(df=AirPassengersPanel, n_windows=2, step_size=H)))
    return rows


def config(trial):
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-2)
    return {**SMALL, **TWO, "callbacks": [ThreadsWriter(OUT, DEADLINE)], "learning_rate": rate}


def search():
    auto = AutoNHITS(h=H, loss=MAE(), config=config, backend="optuna", num_samples=2)
    forecaster = NeuralForecast(models=[auto], freq="M")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    return len(forecaster.predict())


def send_threads(queue):
    queue.put(torch.get_num_threads())


def threads_of_other_forks():
    """The number of threads in a process that multiprocessing forks, and in one that `os.fork` forks."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=send_threads, args=(queue,))
    process.start()
    found = [queue.get()]
    process.join()
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, bytes([torch.get_num_threads()]))
        os._exit(0)
    found.append(os.read(read, 1)[0])
    os.wait()
    return found


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    torch.ones(2000, 2000).sum()  # starts the threads
    results = {}
    for stage in sys.argv[5:]:
        results[stage] = {"single": train_in_one_process, "script": run_script, "search": search}[stage]()
        results[f"threads after {stage}"] = [torch.get_num_threads(), *threads_of_other_forks()]
    with open(os.path.join(OUT, "rank-0.json"), "w", encoding="utf-8") as file:
        json.dump(results, file)
