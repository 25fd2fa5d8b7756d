"""Measures the bytes that several ranks write when all of them save, compared with one process.

`python benchmarks/saved_bytes.py --python PYTHON`, where PYTHON is a training environment; Linux only. NHITS on 200
series of 1,000 days, saved with its dataset by one process and by 2 and 3 ranks of one node, patched. The bytes are
those that a process passes to `write` during `save` (`wchar` in /proc/self/io), summed over the ranks. Exits with 1 if
a ratio is over the limit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from trainings import parse_python, run_ranks, unpack_patched

SAVING = """
import json, os, sys
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import generate_series

def count_written():
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file)["wchar"])

if __name__ == "__main__":
    n_ranks, folder = int(sys.argv[1]), sys.argv[2]
    model = NHITS(
        h=7, input_size=14, max_steps=1, accelerator="cpu", devices=n_ranks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, strategy="ddp" if n_ranks > 1 else "auto",
    )
    forecaster = NeuralForecast(models=[model], freq="D")
    forecaster.fit(df=generate_series(200, min_length=1000, max_length=1000))
    before = count_written()
    forecaster.save(folder)
    n_bytes = count_written() - before
    with open(f"written-{n_ranks}-{os.environ.get('RANK', 0)}.json", "w") as file:
        json.dump(n_bytes, file)
"""
RELEASES = ("1.7.4", "3.3.0")
LIMIT = 1.05


def bytes_by_rank(python: Path, site: Path, n_ranks: int) -> list[int]:
    """The bytes that each rank writes in one `save`."""
    return run_ranks(python, site, n_ranks, SAVING, "written", f"model-{n_ranks}")


def main() -> None:
    """Saves and prints."""
    python = parse_python(__doc__ or "")
    is_over = False
    print("release  ranks  bytes written, by rank        ratio  limit")
    for release in RELEASES:
        with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
            site = unpack_patched(release, Path(folder, "site"))
            of_one = sum(bytes_by_rank(python, site, 1))
            print(f"{release}    1      {of_one:<29,}  1.00", flush=True)
            for n_ranks in (2, 3):
                written = bytes_by_rank(python, site, n_ranks)
                ratio = sum(written) / of_one
                is_over |= ratio > LIMIT
                by_rank = " + ".join(f"{n_bytes:,}" for n_bytes in written)
                print(f"{release}    {n_ranks}      {by_rank:<29}  {ratio:.2f}   {LIMIT}", flush=True)
    sys.exit(1 if is_over else 0)


if __name__ == "__main__":
    main()
