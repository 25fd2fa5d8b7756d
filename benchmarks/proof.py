"""Measure `nfpatch verify` beside the shortest script that a person would write to see one model train under DDP.

Both are real two-process trainings with the same interpreter on the same neuralforecast 1.7.4, and take turns. nfpatch
proves both patches: red, green, control, parity. The script fits one model once. Exit code 1: the limit was missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from releases import CACHE, wheel_of  # noqa: E402 - the scripts are no package

# The proof that the limit is for; 1.7.4 needs further patches, whose fits come on top.
MISSION = ("nbeatsx-unused-out", "tft-static-encoder")
LIMIT = 2.0
BY_HAND = """
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel
from pytorch_lightning.strategies import DDPStrategy

model = NHITS(
    h=12, input_size=24, max_steps=3, accelerator="cpu", devices=2, strategy=DDPStrategy(find_unused_parameters=False),
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
)
NeuralForecast(models=[model], freq="M").fit(df=AirPassengersPanel)
"""


def commands(python: Path, site_packages: Path, folder: Path) -> dict[str, list[str]]:
    """What is measured, by its name."""
    script = folder / "by_hand.py"
    script.write_text(BY_HAND)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    where = ["--python", str(python), "--site-packages", str(site_packages)]
    return {
        "script by hand": [str(python), *launcher, str(script)],
        "nfpatch verify": [sys.executable, "-m", "nfpatch", "verify", *MISSION, "--preview", *where],
    }


def seconds_of(command: list[str], site_packages: Path, folder: Path) -> float:
    """How long a command takes; raises CalledProcessError where it fails."""
    path = os.pathsep.join([str(site_packages), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> int:
    """Take turns, print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python", help="what trains")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site_packages = folder / "site"
        with zipfile.ZipFile(wheel_of("1.7.4")) as wheel:
            wheel.extractall(site_packages)
        measured = commands(arguments.python.absolute(), site_packages, folder)
        for number in range(arguments.rounds + 1):
            print(f"Round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
            for label, command in measured.items():
                seconds = seconds_of(command, site_packages, folder)
                if number:  # the first fills the caches
                    times.setdefault(label, []).append(seconds)
    by_hand, verify = (median(times[label]) for label in measured)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.rounds} rounds\n")
    print(f"{'':<16}{'median s':>10}{'min s':>8}")
    for label, seconds in times.items():
        print(f"{label:<16}{median(seconds):>10.1f}{min(seconds):>8.1f}")
    within = verify / by_hand <= LIMIT
    print(f"\nratio {verify / by_hand:.2f}, limit {LIMIT}: {'ok' if within else 'MISSED'}")
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
