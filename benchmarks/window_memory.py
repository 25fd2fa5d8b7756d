"""How much memory a rank takes that draws windows from a series which all ranks have, by the number of ranks.

`python benchmarks/window_memory.py --python PYTHON`, where PYTHON trains. A patched NHITS of 2.0.1, one series of
60,000 rows with 16 exogenous columns, 1, 2 and 4 ranks by torch's launcher, one thread each. Prints the largest peak of
the resident memory of a rank, and its ratio to that of one process. Exits with 1 if a ratio is over the limit.
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
LIMIT = 1.1
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
    model = NHITS(
        h=12, input_size=24, hist_exog_list=names, max_steps=3, windows_batch_size=32768, random_seed=1,
        mlp_units=[[8, 8]] * 3, accelerator="cpu", devices=n_ranks, strategy="ddp" if n_ranks > 1 else "auto",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    NeuralForecast(models=[model], freq="h").fit(df=data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open(f"peak-{n_ranks}-{os.environ.get('RANK', 0)}.json", "w") as file:
        json.dump(peak, file)
"""


def largest_peak(python: Path, site: Path, n_ranks: int) -> float:
    """The peak of the largest of so many ranks, in MiB."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
    command = [str(python), *(launcher if n_ranks > 1 else []), "training.py", str(n_ranks)]
    folder = site.parent
    (folder / "training.py").write_text(TRAINING, encoding="utf-8")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The script failed:\n{done.stderr}")
    files = [folder / f"peak-{n_ranks}-{rank}.json" for rank in range(n_ranks)]
    return max(float(json.loads(file.read_text(encoding="utf-8"))) for file in files)


def main() -> None:
    """Trains and prints."""
    sys.path.insert(0, str(SCRIPTS))
    from releases import unpack

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    python = Path(os.path.abspath(parser.parse_args().python))
    with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
        site = unpack(RELEASE, Path(folder, "site"))
        command = [sys.executable, "-m", "nfpatch", "apply", "--site-packages", str(site)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        print("ranks  largest peak, MiB  ratio")
        ratios = []
        for n_ranks in (1, 2, 4):
            peak = largest_peak(python, site, n_ranks)
            if n_ranks == 1:
                of_one = peak
            ratios.append(peak / of_one)
            print(f"{n_ranks}      {peak:<17.0f}  {ratios[-1]:.2f}", flush=True)
    is_over = max(ratios) > LIMIT
    print(f"\nlimit {LIMIT}: {'missed' if is_over else 'ok'}")
    sys.exit(1 if is_over else 0)


if __name__ == "__main__":
    main()
