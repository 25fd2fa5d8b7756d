"""Helpers of the benchmarks that train: their option, a patched release, and a script on several ranks."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from releases import RELEASES, unpack

__all__ = ["RELEASES", "parse_python", "run_ranks", "unpack", "unpack_patched"]


def parse_python(description: str) -> Path:
    """The training interpreter that `--python` names."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    return Path(os.path.abspath(parser.parse_args().python))


def unpack_patched(release: str, folder: Path, *names: str) -> Path:
    """A release with these patches or groups, the default ones if none is named."""
    site = unpack(release, folder)
    command = [sys.executable, "-m", "nfpatch", "apply", *names, "--site-packages", str(site)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return site


def run_ranks(python: Path, site: Path, n_ranks: int, script: str, result: str, *arguments: str) -> list[Any]:
    """Run a script on this number of ranks, one thread each; the content of each `RESULT-N_RANKS-RANK.json`.

    The script gets the number of ranks and the other arguments.
    """
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
    command = [str(python), *(launcher if n_ranks > 1 else []), f"{result}.py", str(n_ranks), *arguments]
    folder = site.parent
    (folder / f"{result}.py").write_text(script, encoding="utf-8")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The script failed:\n{done.stderr}")
    files = [folder / f"{result}-{n_ranks}-{rank}.json" for rank in range(n_ranks)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]
