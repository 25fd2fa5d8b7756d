"""Upstream's own tests on the newest release, released and patched: the results have to be the same.

`python scripts/upstream_tests.py --python PYTHON --clone DIR --sdist FILE`: PYTHON trains and has what upstream's tests
import (gitpython, s3fs, polars, matplotlib, hyperopt, captum), DIR is a clone of Nixtla/neuralforecast, bare or not,
and FILE the source distribution of the release, which has the tests of its upper folder (`pip download --no-deps
--no-binary neuralforecast neuralforecast==3.3.0`). What it lacks (conftest.py, helpers, the tests of common, losses and
models) comes from the commit `--ref` of the clone. Files of upstream are read into a temporary folder only. Prints the
number of tests by result, file by file, and every test whose result differs; exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from releases import RELEASES, unpack

MODELS = ("deepar", "lstm", "nbeatsx", "nhits", "stemgnn", "tsmixer")
TESTS = (
    "tests/test_losses",
    "tests/test_tsdataset.py",
    "tests/test_simulate.py",
    *(f"tests/test_models/test_{name}.py" for name in MODELS),
    "tests/test_common",
    "tests/test_core.py",
)
SOURCES = ("released", "patched")


def write_tests(folder: Path, clone: Path, ref: str, sdist: Path | None) -> None:
    """Write the tests of a commit, and over them those of a source distribution."""
    archive = subprocess.run(["git", "archive", ref, "tests"], cwd=clone, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        members.extractall(folder, filter="data")
    if sdist is not None:
        with tarfile.open(sdist) as members:
            for member in members:
                inner = Path(*Path(member.name).parts[1:])
                if inner.parts[:1] == ("tests",) and member.isfile():
                    (folder / inner).write_bytes(members.extractfile(member).read())  # type: ignore[union-attr]


def results_of(python: Path, folder: Path, tests: str) -> dict[str, str]:
    """Run tests on the install in `folder/site`; their results by name."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "CUDA_VISIBLE_DEVICES": ""}
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "--tb=line", f"--junit-xml={report}"]
    command = [str(python), "-m", "pytest", *options, tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = [each.tag for each in case if each.tag in ("failure", "error", "skipped")]
        results[f"{case.get('classname')}::{case.get('name')}"] = found[0] if found else "passed"
    return results


def summary(results: Iterable[str]) -> str:
    """The number of tests, and of those with each result."""
    counts = Counter(results)
    each = ", ".join(f"{number} {result}" for result, number in sorted(counts.items()))
    return f"{sum(counts.values())} tests: {each}"


def main() -> None:
    """Runs the tests on both and compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that trains")
    parser.add_argument("--clone", type=Path, required=True, help="a clone of Nixtla/neuralforecast")
    parser.add_argument("--ref", default="HEAD", help="the commit whose tests are run")
    parser.add_argument("--sdist", type=Path, help="the source distribution of the release")
    parser.add_argument("tests", nargs="*", default=TESTS, help="files, folders or names of tests, as for pytest")
    options = parser.parse_args()
    python = Path(os.path.abspath(options.python))
    results: dict[str, dict[str, str]] = {source: {} for source in SOURCES}
    with tempfile.TemporaryDirectory(prefix="nfpatch-upstream-") as temporary:
        folders = {source: Path(temporary, source) for source in SOURCES}
        for folder in folders.values():
            unpack(RELEASES[-1], folder / "site")
            write_tests(folder, options.clone, options.ref, options.sdist)
        command = [sys.executable, "-m", "nfpatch", "apply", "--site-packages", str(folders["patched"] / "site")]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        for tests in options.tests:
            for source, folder in folders.items():
                found = results_of(python, folder, tests)
                results[source].update(found)
                print(f"{tests}, {source}: {summary(found.values())}", flush=True)
    for source, by_test in results.items():
        print(f"{source}: {summary(by_test.values())}")
    released, patched = results["released"], results["patched"]
    differing = sorted(test for test in {**released, **patched} if released.get(test) != patched.get(test))
    for test in differing:
        print(f"{test}: released {released.get(test)}, patched {patched.get(test)}")
    sys.exit(1 if differing or not released else 0)


if __name__ == "__main__":
    main()
