"""Measures the memory of a rank that draws windows from a series that all ranks have, by the number of ranks.

`python benchmarks/window_memory.py --python PYTHON`, where PYTHON is a training environment. A patched NHITS of 2.0.1,
one series of 60,000 rows with 16 exogenous columns, 1, 2 and 4 ranks with torch's launcher, one thread each. Prints the
largest peak of the resident memory of a rank, and its ratio to that of one process. Exits with 1 if a ratio is over the
limit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from trainings import parse_python, run_ranks, unpack_patched

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


def main() -> None:
    """Trains and prints."""
    python = parse_python(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
        site = unpack_patched(RELEASE, Path(folder, "site"))
        print("ranks  largest peak, MiB  ratio")
        ratios = []
        for n_ranks in (1, 2, 4):
            peak = max(run_ranks(python, site, n_ranks, TRAINING, "peak"))
            if n_ranks == 1:
                of_one = peak
            ratios.append(peak / of_one)
            print(f"{n_ranks}      {peak:<17.0f}  {ratios[-1]:.2f}", flush=True)
    is_over = max(ratios) > LIMIT
    print(f"\nlimit {LIMIT}: {'missed' if is_over else 'ok'}")
    sys.exit(1 if is_over else 0)


if __name__ == "__main__":
    main()
