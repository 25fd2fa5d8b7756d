"""Measures the benefit of a second process with a single series: validation losses over steps, released and patched.

`python benchmarks/second_process.py --python PYTHON`, where PYTHON is a training environment. NHITS on AirPassengers,
mean of five seeds; one process with 4 and with 8 windows per step, and two processes with 4 each. Prints a row of
losses for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from trainings import RELEASES, parse_python, unpack, unpack_patched

TRAINING = """
import json, os, sys
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersDF

if __name__ == "__main__":
    windows, trainer = json.loads(sys.argv[1])
    for seed in range(1, 6):
        model = NHITS(
            h=12, input_size=24, max_steps=200, val_check_steps=40, windows_batch_size=windows, random_seed=seed,
            mlp_units=[[64, 64]] * 3, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, **trainer,
        )
        forecaster = NeuralForecast(models=[model], freq="ME")
        forecaster.fit(df=AirPassengersDF, val_size=24)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("LOSSES", json.dumps([loss for _, loss in forecaster.models[0].valid_trajectories]), flush=True)
"""
ONE, TWO = {"devices": 1}, {"devices": 2, "strategy": "ddp"}


def losses_of(python: Path, script: Path, site: Path, windows: int, trainer: dict[str, object]) -> list[float]:
    """The validation losses of a training at its steps, the mean of the seeds."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [str(python), str(script), json.dumps([windows, trainer])]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=True)
    lines = [line.partition("LOSSES ")[2] for line in done.stdout.splitlines() if line.startswith("LOSSES ")]
    of_seeds = [json.loads(line) for line in lines]
    return [sum(losses) / len(of_seeds) for losses in zip(*of_seeds)]


def main() -> None:
    """Trains and prints."""
    python = parse_python(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
        released, patched = (
            unpack(RELEASES[-1], Path(folder, "released")),
            unpack_patched(RELEASES[-1], Path(folder, "patched")),
        )
        script = Path(folder, "training.py")
        script.write_text(TRAINING, encoding="utf-8")
        rows = [
            ("one process, 4 windows", released, 4, ONE),
            ("two processes, 4 windows each, as released", released, 4, TWO),
            ("two processes, 4 windows each, patched", patched, 4, TWO),
            ("one process, 8 windows", released, 8, ONE),
        ]
        print("| validation loss at step | 0 | 40 | 80 | 120 | 160 | 200 |\n|---|---|---|---|---|---|---|", flush=True)
        for name, site, windows, trainer in rows:
            losses = losses_of(python, script, site, windows, trainer)
            print("| " + " | ".join([name, *(f"{loss:.1f}" for loss in losses)]) + " |", flush=True)


if __name__ == "__main__":
    main()
