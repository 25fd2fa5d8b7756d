"""How much memory a rank takes where ranks share a series: the peak by the number of ranks, patched.

`python benchmarks/memory.py --python PYTHON`, where PYTHON trains. NHITS of 2.0.1, which draws out of all windows of
the series: one series of 60,000 rows with 16 exogenous columns, 1, 2 and 4 ranks by torch's launcher, one thread each.
Prints the peak of the resident memory of the largest rank, and its ratio to that of one process. The exit code is 1
where it is more than 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
RELEASE = "2.0.1"
RANKS = (1, 2, 4)
LIMIT = 1.05
TRAINING = """
import json, os, resource, sys
import numpy as np, pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS

if __name__ == "__main__":
    n_ranks = int(sys.argv[1])
    random = np.random.default_rng(1)
    names = [f"x{number}" for number in range(16)]
    columns = {name: random.random(60_000) for name in ["y", *names]}
    dates = pd.date_range("2000-01-01", periods=60_000, freq="h")
    data = pd.DataFrame({"unique_id": "a series", "ds": dates, **columns})
    trainer = {"devices": n_ranks, "strategy": "ddp"} if n_ranks > 1 else {"devices": 1}
    model = NHITS(
        h=12, input_size=24, hist_exog_list=names, max_steps=3, windows_batch_size=8192, random_seed=1,
        mlp_units=[[8, 8]] * 3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **trainer,
    )
    NeuralForecast(models=[model], freq="h").fit(df=data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open(f"{n_ranks}-{os.environ.get('LOCAL_RANK', '0')}.json", "w") as file:
        json.dump(peak, file)
"""


def peak_of(python: Path, script: Path, site: Path, n_ranks: int) -> float:
    """The peak of the largest of so many ranks, in MiB."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"] if n_ranks > 1 else []
    command = [str(python), *launcher, str(script), str(n_ranks)]
    subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, check=True)
    return max(json.loads(path.read_text()) for path in script.parent.glob(f"{n_ranks}-*.json"))


def main() -> None:
    """Trains and prints."""
    sys.path.insert(0, str(SCRIPTS))
    from releases import unpack

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    python = Path(os.path.abspath(parser.parse_args().python))
    with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
        site = unpack(RELEASE, Path(folder, "patched"))
        command = [sys.executable, "-m", "nfpatch", "apply", "--site-packages", str(site)]
        subprocess.run([*command, "--allow-modified"], stdout=subprocess.DEVNULL, check=True)
        script = Path(folder, "training.py")
        script.write_text(TRAINING, encoding="utf-8")
        peaks = {n_ranks: peak_of(python, script, site, n_ranks) for n_ranks in RANKS}
    print("ranks  peak MiB  ratio")
    for n_ranks, peak in peaks.items():
        print(f"{n_ranks:5d}  {peak:8.0f}  {peak / peaks[1]:5.2f}")
    raise SystemExit(1 if max(peaks.values()) > LIMIT * peaks[1] else 0)


if __name__ == "__main__":
    main()
