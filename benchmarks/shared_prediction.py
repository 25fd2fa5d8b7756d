"""Measures the time of `predict` on two processes that share it, compared with one process: TFT with 2,500 series.

`python benchmarks/shared_prediction.py --python PYTHON`, where PYTHON is a training environment. Everything runs on a
patched 3.3.0, one thread a process: one process, two that predict by themselves (`predict-on-one-device`), and two that
share (`predict-on-all-devices`); all start at once, and take turns. Prints the median seconds and their ratio to one
process, the CPU time and the peak memory of a process, and what a process does besides predicting batches. The exit
code is 1 if the ratio is above LIMIT, or if the forecasts differ. Other work on the machine slows down two processes
more than one.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainings import RELEASES, parse_python, unpack_patched

LIMIT = 0.75
ROUNDS = 5
SCRIPT = """
import cProfile, hashlib, json, os, pstats, resource, sys, time
import numpy as np, pandas as pd, pytorch_lightning as pl
from neuralforecast import NeuralForecast
from neuralforecast.models import TFT

if __name__ == "__main__":
    folder, trainer = sys.argv[1], json.loads(sys.argv[2])
    random, n_series, length = np.random.default_rng(1), 2500, 100
    frame = pd.DataFrame({
        "unique_id": np.repeat(np.arange(n_series), length),
        "ds": np.tile(pd.date_range("2024-01-01", periods=length), n_series),
        "y": random.standard_normal(n_series * length),
    })
    model = TFT(h=12, input_size=48, hidden_size=128, max_steps=1, learning_rate=0.0, valid_batch_size=50,
                windows_batch_size=32, accelerator="cpu", logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, **trainer)
    forecaster = NeuralForecast(models=[model], freq="D")
    forecaster.fit(df=frame[frame.unique_id < 32])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rank, profile = os.environ.get("LOCAL_RANK", "0"), cProfile.Profile()
    for number, line in enumerate(sys.stdin):  # a line for each turn
        started, cpu = time.perf_counter(), time.process_time()
        if line.strip() == "profile":
            forecasts = profile.runcall(forecaster.predict, df=frame)
        else:
            forecasts = forecaster.predict(df=frame)
        seconds = time.perf_counter() - started
        answer_of_turn = {
            "seconds": seconds, "cpu": time.process_time() - cpu,
            "digest": hashlib.sha256(forecasts["TFT"].to_numpy().tobytes()).hexdigest(),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "before": before,
        }
        if line.strip() == "profile":
            stats = pstats.Stats(profile).stats
            wanted = {"predict_step", "compute_digest", "attend", "receive", "publish", "_parse_X", "align", "from_df",
                      "update_dataset", "_make_future_dataframe", "fetch", "predict"}
            answer_of_turn["profile"] = sorted(
                [round(row[3], 3), f"{os.path.basename(file)}:{name}"]
                for (file, _, name), row in stats.items() if name in wanted and "neuralforecast" in file
                or name == "fetch" and "torch" in file)[::-1]
        print("ANSWER", json.dumps(answer_of_turn), flush=True)
"""
TWO = {"devices": 2, "strategy": "ddp"}


class Process:
    """One process of a configuration, which predicts on request."""

    def __init__(self, python: Path, script: Path, site: Path, trainer: dict[str, object], variables: dict[str, str]):
        environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [str(python), str(script), str(script.parent), json.dumps(trainer)],
            cwd=script.parent,
            env={**environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, line: str) -> None:
        """Request a prediction."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The measurements of its prediction. Raises RuntimeError if it has exited."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                answer: dict[str, Any] = json.loads(line.partition(" ")[2])
                return answer
        raise RuntimeError("A process has ended before it has predicted.")

    def end(self) -> None:
        """Close its input, which makes it exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def start(python: Path, script: Path, site: Path, world_size: int) -> list[Process]:
    """Start the processes of one configuration."""
    if world_size == 1:
        return [Process(python, script, site, {"devices": 1}, {})]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world_size), "NODE_RANK": "0"}
    return [Process(python, script, site, TWO, {**common, "LOCAL_RANK": str(rank)}) for rank in range(world_size)]


def predict(processes: list[Process], line: str = "predict") -> list[dict[str, Any]]:
    """Make all processes of a configuration predict at the same time."""
    for process in processes:
        process.ask(line)
    return [process.answer() for process in processes]


def main() -> int:
    """Measures and prints; returns the exit code."""
    python = parse_python(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
        alone = unpack_patched(RELEASES[-1], Path(folder, "alone"), "multi-process")
        shared = unpack_patched(RELEASES[-1], Path(folder, "shared"), "multi-process", "predict-on-all-devices")
        script = Path(folder, "predicting.py")
        script.write_text(SCRIPT, encoding="utf-8")
        running = {
            "one process": start(python, script, shared, 1),
            "two processes, each by itself": start(python, script, alone, 2),
            "two processes that share": start(python, script, shared, 2),
        }
        measured: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in running}
        for number in range(ROUNDS + 1):  # the first round is not timed
            for name, processes in running.items():
                answers = predict(processes)
                if number > 0:
                    measured[name].append(answers)
        profiles = {name: predict(processes, "profile")[0]["profile"] for name, processes in running.items()}
        for processes in running.values():
            for process in processes:
                process.end()
    return report(measured, profiles)


def report(measured: dict[str, list[list[dict[str, Any]]]], profiles: dict[str, list[tuple[float, str]]]) -> int:
    """Prints the table and the profiles; returns the exit code."""
    times = {
        name: statistics.median(max(answer["seconds"] for answer in answers) for answers in rounds)
        for name, rounds in measured.items()
    }
    reference = times["one process"]
    print("| | median s | ratio | CPU s of each process | peak MiB of each process (before) |\n|---|---|---|---|---|")
    for name, rounds in measured.items():
        by_process = [statistics.median(answer["cpu"] for answer in answers) for answers in zip(*rounds)]
        cpu = ", ".join(f"{seconds:.2f}" for seconds in by_process)
        peaks = ", ".join(f"{answer['peak'] / 1024:.0f} ({answer['before'] / 1024:.0f})" for answer in rounds[-1])
        print(f"| {name} | {times[name]:.2f} | {times[name] / reference:.2f} | {cpu} | {peaks} |")
    for name, profile in profiles.items():
        print(f"\nseconds in functions, {name} (the first of them, under cProfile):")
        for seconds, function in profile:
            print(f"  {seconds:8.3f}  {function}")
    digests = {answer["digest"] for rounds in measured.values() for answers in rounds for answer in answers}
    ratio = times["two processes that share"] / reference
    is_ok = len(digests) == 1 and ratio <= LIMIT
    print(f"\nratio {ratio:.2f}, limit {LIMIT}; {len(digests)} SHA-256 of all forecasts: {'ok' if is_ok else 'missed'}")
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
