"""Compare the time of `nfpatch verify` and `nfpatch rehearse` with hand-written scripts.

All are real two-process trainings with the same interpreter and the same neuralforecast, and run alternately.

verify: nfpatch proves the two basic patches on 1.7.4: red, green, control, parity. The script fits one model.
all: nfpatch proves all patches that 1.7.4 needs, like `verify --preview` without names; the same script.
rehearse: the script trains, predicts and cross-validates on a patched 3.3.0. The hand-written script has the
overrides of the rehearsal: two CPU processes and four steps.

Exit code 1: a limit was exceeded.
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
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

Commands = Callable[[Path, list[str], Path], tuple[list[str], list[str]]]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from releases import CACHE, wheel_of  # noqa: E402 - the scripts are no package

BASIC_PATCHES = ("nbeatsx-unused-out", "tft-static-encoder")
SHORTEST = """
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
ORDINARY = """
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

frame = AirPassengersPanel[["unique_id", "ds", "y"]]
options = dict({overrides}, logger=False, enable_checkpointing=False, enable_progress_bar=False)
forecaster = NeuralForecast(models=[NHITS(h=12, input_size=24, strategy="ddp", **options)], freq="M")
forecaster.fit(frame, val_size=12)
forecaster.predict()
forecaster.cross_validation(frame, n_windows=2, val_size=12)
"""


def verify_and_script(*names: str) -> Commands:
    """The hand-written script, with torch's launcher, and the proof of these patches, or of all."""

    def commands(python: Path, place: list[str], folder: Path) -> tuple[list[str], list[str]]:
        script = folder / "by_hand.py"
        script.write_text(SHORTEST)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        return [str(python), *launcher, str(script)], nfpatch("verify", *names, "--preview", *place)

    return commands


def rehearse_and_script(python: Path, place: list[str], folder: Path) -> tuple[list[str], list[str]]:
    """The hand-written script, with Lightning's launcher, and the rehearsal."""
    script, by_hand = folder / "train.py", folder / "by_hand.py"
    script.write_text(ORDINARY.format(overrides="max_steps=100"))
    by_hand.write_text(ORDINARY.format(overrides='max_steps=4, val_check_steps=4, accelerator="cpu", devices=2'))
    subprocess.run(nfpatch("apply", *place), check=True, capture_output=True)
    return [str(python), str(by_hand)], nfpatch("rehearse", *place, str(script))


class TimeComparison(NamedTuple):
    """A command of nfpatch, its release, and the limit as a multiple of the time of the hand-written script."""

    release: str
    limit: float
    commands: Commands


COMPARISONS = {
    "verify": TimeComparison("1.7.4", 2.0, verify_and_script(*BASIC_PATCHES)),
    "all": TimeComparison("1.7.4", 5.0, verify_and_script()),
    "rehearse": TimeComparison("3.3.0", 1.3, rehearse_and_script),
}


def nfpatch(*arguments: str) -> list[str]:
    """The command line of nfpatch with this interpreter."""
    return [sys.executable, "-m", "nfpatch", *arguments]


def seconds_of(command: list[str], site_packages: Path, folder: Path) -> float:
    """The seconds that a command takes; raises CalledProcessError if it fails."""
    path = os.pathsep.join([str(site_packages), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def ratio_of(name: str, python: Path, rounds: int) -> float:
    """Runs both alternately, prints the medians, and returns their ratio."""
    comparison = COMPARISONS[name]
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        site_packages = folder / "site"
        with zipfile.ZipFile(wheel_of(comparison.release)) as wheel:
            wheel.extractall(site_packages)
        place = ["--python", str(python), "--site-packages", str(site_packages)]
        labels = ("script by hand", f"nfpatch: {name}")
        commands = comparison.commands(python, place, folder)
        for number in range(rounds + 1):
            print(f"{name}: round {number} of {rounds}", file=sys.stderr, flush=True)
            for label, command in zip(labels, commands):
                seconds = seconds_of(command, site_packages, folder)
                if number:  # the first fills the caches
                    times.setdefault(label, []).append(seconds)
    print(f"{'':<18}{'median s':>10}{'min s':>8}")
    for label, seconds in times.items():
        print(f"{label:<18}{median(seconds):>10.1f}{min(seconds):>8.1f}")
    by_hand, own = (median(times[label]) for label in labels)
    return own / by_hand


def main() -> int:
    """Run the selected measurements; exit code 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=[*COMPARISONS], help="verify, all, rehearse (default: each)")
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python", help="what trains")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.rounds} rounds")
    is_over = False
    for name in arguments.commands:
        ratio, limit = ratio_of(name, arguments.python.absolute(), arguments.rounds), COMPARISONS[name].limit
        print(f"ratio {ratio:.2f}, limit {limit}: {'ok' if ratio <= limit else 'EXCEEDED'}\n")
        is_over |= ratio > limit
    return 1 if is_over else 0


if __name__ == "__main__":
    raise SystemExit(main())
