"""Predict on several ranks: on all, on one only, after an error, with different data on each.

`python predicting.py OUT PLAN WORLD_SIZE`. Each process writes to OUT/rank-N.json, by stage: the SHA-256 of the
forecasts, random numbers drawn after them, the number of batches that it predicted, and the seconds. The learning rate
is 0, so that all processes have the weights of a single one. PLAN is one of

    reference   one process makes all calls that are compared with "shared"
    shared      all ranks make the same calls, and then each predicts a frame of its own
    one model   one process makes the call that is compared with the plans below
    failing     rank 1 raises in a prediction; then rank CHOSEN (environment variable) is killed in the middle of one
    one rank    rank CHOSEN predicts three times while the others have an error instead; then all predict
"""

import hashlib
import json
import os
import signal
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import DistributionLoss, MQLoss
from neuralforecast.models import GRU, NHITS

H, N_SERIES = 6, 9
RANK, CHOSEN = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "CHOSEN"))
# What to do when a batch is predicted: "" or "raise" or "kill"
STATE = {"batches": 0, "then": ""}


def frame(seed):
    """Series of several lengths; the seed changes one value of them."""
    random = np.random.default_rng(1)
    # Up to 2.0.1 predict_insample fails on series of several lengths
    lengths = [70 + 5 * (number % 4) * (version("neuralforecast") >= "3") for number in range(N_SERIES)]
    days = [pd.date_range("2024-01-01", periods=length) for length in lengths]
    ids = np.repeat([f"series-{number}" for number in range(N_SERIES)], lengths)
    values = random.standard_normal(len(ids)).cumsum()
    values[-1] += seed
    return pd.DataFrame({"unique_id": ids, "ds": np.concatenate(days), "y": values})


def watch(model_class):
    """Count the batches that this process predicts in STATE."""
    predict_step = model_class.predict_step

    def watched(self, *arguments):
        STATE["batches"] += 1
        if STATE["then"] == "raise":
            raise ValueError("own error")
        if STATE["then"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return predict_step(self, *arguments)

    model_class.predict_step = watched


def record(results, stage, predict):
    """Run a stage, and record the digest of its forecasts, its batches, and the random numbers after it."""
    STATE["batches"] = 0
    torch.manual_seed(5)
    np.random.seed(5)
    started = time.monotonic()
    forecasts = predict()
    values = np.ascontiguousarray(forecasts.select_dtypes("number").to_numpy(dtype="float64"))
    drawn = [torch.rand(1).item(), np.random.rand()]
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    results[stage] = [digest, len(forecasts), drawn, STATE["batches"], time.monotonic() - started]


def shared_stages(results, forecaster, drawing, frames):
    """Run the stages in which all ranks make the same calls; `frames` are the seeds of this process's own data."""
    record(results, "predict", forecaster.predict)
    record(results, "predict_insample", forecaster.predict_insample)
    record(results, "cross_validation", lambda: forecaster.cross_validation(df=frame(0), n_windows=3))
    if hasattr(forecaster, "simulate"):
        record(results, "simulate", lambda: forecaster.simulate(n_paths=5, seed=1))
    record(results, "drawing", drawing.predict)
    for seed in frames:
        record(results, f"frame {seed}", partial(forecaster.predict, df=frame(seed)))


def make(world_size):
    """A forecaster of models that draw no random numbers when they predict, and one of a model that does."""
    common = {"h": H, "input_size": 12, "max_steps": 1, "learning_rate": 0.0, "valid_batch_size": 2}
    common.update(accelerator="cpu", logger=False, enable_checkpointing=False)
    if world_size > 1:
        common.update(devices=world_size, strategy="ddp")
    small = {"mlp_units": [[8, 8]] * 3, **common}
    models = [
        NHITS(**small, loss=MQLoss(level=[80])),
        GRU(**common, loss=MQLoss(level=[80]), encoder_hidden_size=8, decoder_hidden_size=8),
    ]
    drawing = [NHITS(**small, loss=DistributionLoss("Normal", level=[80], num_samples=20))]
    return [NeuralForecast(models=models, freq="D"), NeuralForecast(models=drawing, freq="D")]


def predict_with_failures(results, forecaster, out):
    """Rank 1 fails, and later a rank is killed; the results until then are written before."""
    if RANK == 1:
        STATE["then"] = "raise"
        try:
            forecaster.predict()
        except ValueError as error:
            results["error"] = str(error)
        STATE["then"] = ""
    else:
        record(results, "an error", forecaster.predict)
    record(results, "again", forecaster.predict)
    write(results, out)
    if RANK == CHOSEN:
        STATE["then"] = "kill"
    record(results, "a killed rank", forecaster.predict)
    record(results, "afterwards", forecaster.predict)


def predict_on_one_rank(results, forecaster):
    """One rank predicts three times while the others have an error; then all predict."""
    if RANK == CHOSEN:
        for number in range(3):
            record(results, f"one rank {number}", forecaster.predict)
    else:
        try:
            raise ValueError("an error on a rank")
        except ValueError as error:
            results["error"] = str(error)
    torch.distributed.barrier()
    record(results, "all", forecaster.predict)


def write(results, out):
    """Write the results so far."""
    (out / f"rank-{RANK}.json").write_text(json.dumps(results), encoding="utf-8")


def main(out, plan, world_size):
    """Run the plan."""
    for model_class in (NHITS, GRU):
        watch(model_class)
    results = {}
    forecaster, drawing = make(world_size)
    if plan not in ("reference", "shared"):
        forecaster.models = forecaster.models[:1]  # so that a rank with an error misses no other call
    forecaster.fit(df=frame(0))
    if plan == "failing":
        predict_with_failures(results, forecaster, out)
    elif plan == "one rank":
        predict_on_one_rank(results, forecaster)
    elif plan == "one model":
        record(results, "one model", forecaster.predict)
    else:
        drawing.fit(df=frame(0))
        shared_stages(results, forecaster, drawing, range(3) if plan == "reference" else [RANK])
    write(results, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
