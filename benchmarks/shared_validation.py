"""Measures the time of validation on one and on two processes, released and patched.

`python benchmarks/shared_validation.py --python PYTHON`, where PYTHON is a training environment. NHITS of the last
release on 400 series of 400 days, validated at each of 6 steps, one thread per process, on the CPU; two processes need
two idle cores. All kinds of run alternate. Prints the median seconds of a validation, and the ratios of two processes
to one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
LIMIT = 0.65  # of the time of one process
VALIDATING = """
import json, os, sys, time
import numpy as np, pandas as pd, pytorch_lightning as pl
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS

STARTED, SECONDS = [], []

class Clock(pl.Callback):
    def on_validation_start(self, *_):
        STARTED.append(time.perf_counter())
    def on_validation_end(self, *_):
        SECONDS.append(time.perf_counter() - STARTED[-1])

if __name__ == "__main__":
    days = pd.date_range("2020-01-01", periods=400)
    values = np.random.RandomState(0).randn(400, 400).cumsum(axis=1)
    frame = pd.concat(
        pd.DataFrame({"unique_id": f"s{number:03d}", "ds": days, "y": row}) for number, row in enumerate(values)
    )
    model = NHITS(
        h=14, input_size=56, max_steps=6, val_check_steps=1, valid_batch_size=32, num_sanity_val_steps=0,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Clock()], **json.loads(sys.argv[1]),
    )
    NeuralForecast(models=[model], freq="D").fit(df=frame, val_size=100)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("SECONDS", json.dumps(SECONDS), flush=True)
"""
ONE, TWO = {"devices": 1}, {"devices": 2, "strategy": "ddp"}


def seconds_of(python: Path, script: Path, site: Path, trainer: dict[str, object]) -> list[float]:
    """The seconds of each validation in a training except the first, on the first process."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [str(python), str(script), json.dumps(trainer)]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SECONDS ")]
    seconds: list[float] = json.loads(line.partition(" ")[2])
    return seconds[1:]


def main() -> None:
    """Measures and prints."""
    sys.path.insert(0, str(SCRIPTS))
    from releases import RELEASES, unpack

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    python = Path(os.path.abspath(arguments.python))
    with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
        sites = {name: unpack(RELEASES[-1], Path(folder, name)) for name in ("released", "patched")}
        command = [sys.executable, "-m", "nfpatch", "apply", "--site-packages", str(sites["patched"])]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        script = Path(folder, "validating.py")
        script.write_text(VALIDATING, encoding="utf-8")
        measured: dict[tuple[str, int], list[float]] = {}
        for _ in range(arguments.rounds):
            for n_processes, trainer in ((1, ONE), (2, TWO)):
                for name, site in sites.items():
                    seconds = seconds_of(python, script, site, trainer)
                    measured.setdefault((name, n_processes), []).extend(seconds)
    medians = {key: statistics.median(seconds) for key, seconds in measured.items()}
    print(f"neuralforecast {RELEASES[-1]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end\n")
    print("| seconds of a validation | one process | two | ratio |\n|---|---|---|---|")
    for name in sites:
        one, two = medians[name, 1], medians[name, 2]
        print(f"| {name} | {one:.3f} | {two:.3f} | {two / one:.2f} |")
    ratio = medians["patched", 2] / medians["patched", 1]
    print(f"\npatched: {ratio:.2f}, limit {LIMIT}: {'ok' if ratio <= LIMIT else 'missed'}")
    sys.exit(0 if ratio <= LIMIT else 1)


if __name__ == "__main__":
    main()
