"""Runs the reproduction in every text in docs/upstream/ with the newest release, as released and patched.

The released one must fail with the error in the text, the patched one must train. `python scripts/upstream.py --python
PYTHON`, where PYTHON has torch and the other dependencies of neuralforecast.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from releases import RELEASES, unpack

from nfpatch.catalog import load_catalog

TEXTS = Path(__file__).resolve().parent.parent / "docs" / "upstream"
NAMES = re.compile(r"no gradient: \['[^]]+\]")
BLOCK = re.compile(r"^```(python)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_script(script: Path, python: Path, site: Path) -> tuple[int, str]:
    """The exit code and the output of a script that imports neuralforecast from `site`."""
    fixed = {"PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    fixed["PYSPARK_PYTHON"] = str(python)
    done = subprocess.run(
        [python, script],
        cwd=script.parent,
        env={**os.environ, **fixed},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Print a line for each text; exit code 1 if one does not reproduce."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    python = Path(os.path.abspath(parser.parse_args().python))
    false = 0
    with tempfile.TemporaryDirectory(prefix="nfpatch-upstream-") as folder:
        released, patched = (unpack(RELEASES[-1], Path(folder, name)) for name in ("released", "patched"))
        nfpatch = [sys.executable, "-m", "nfpatch"]
        opt_in = [patch.id for patch in load_catalog().patches if patch.opt_in]
        for names in (["all"], opt_in):
            subprocess.run(
                [*nfpatch, "apply", *names, "--site-packages", patched], stdout=subprocess.DEVNULL, check=True
            )
        for text in sorted(TEXTS.glob("*.md")):
            code, error = (block for _, block in BLOCK.findall(text.read_text(encoding="utf-8"))[:2])
            script = Path(folder, text.stem.replace("-", "_") + ".py")
            script.write_text(code, encoding="utf-8")
            refused, output = run_script(script, python, released)
            is_red = refused != 0 and error.strip() in output
            trained, output_patched = run_script(script, python, patched)
            is_green = trained == 0 and not NAMES.search(output_patched)
            false += not (is_red and is_green)
            words = ("refused" if is_red else "NOT refused as shown", "trains" if is_green else "does NOT train")
            found = NAMES.search(output)
            print(f"{text.stem}: released {words[0]} ({found.group() if found else 'no name'}), patched {words[1]}")
    raise SystemExit(1 if false else 0)


if __name__ == "__main__":
    main()
