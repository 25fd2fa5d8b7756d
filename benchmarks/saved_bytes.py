"""How many bytes several ranks write when all of them save, beside one process.

`python benchmarks/saved_bytes.py --python PYTHON`, where PYTHON trains; Linux. NHITS on 200 series of 1,000 days, saved
with its dataset by one process and by 2 and 3 ranks of one node, patched. The bytes are those that a process gives to
`write` during `save` (`wchar` in /proc/self/io), summed over the ranks. Exits with 1 if a ratio is over the limit.
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
    """How many bytes each rank writes in one `save`."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
    command = [str(python), *(launcher if n_ranks > 1 else []), "saving.py", str(n_ranks), f"model-{n_ranks}"]
    folder = site.parent
    (folder / "saving.py").write_text(SAVING, encoding="utf-8")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The script failed:\n{done.stderr}")
    files = [folder / f"written-{n_ranks}-{rank}.json" for rank in range(n_ranks)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def main() -> None:
    """Saves and prints."""
    sys.path.insert(0, str(SCRIPTS))
    from releases import unpack

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    python = Path(os.path.abspath(parser.parse_args().python))
    is_over = False
    print("release  ranks  bytes written, by rank        ratio  limit")
    for release in RELEASES:
        with tempfile.TemporaryDirectory(prefix="nfpatch-bench-") as folder:
            site = unpack(release, Path(folder, "site"))
            command = [sys.executable, "-m", "nfpatch", "apply", "--site-packages", str(site)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
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
