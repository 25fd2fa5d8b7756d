"""`verify` on Spark in local mode, and the processes and files that it leaves. `make spark` runs these tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import MARK, ROOT, environment, invoke, processes_with, run_ranks

SPARK_PYTHON = os.environ.get("NFPATCH_SPARK_PYTHON")
pytestmark = [
    pytest.mark.ddp,
    pytest.mark.skipif(SPARK_PYTHON is None, reason="NFPATCH_SPARK_PYTHON names no interpreter with pyspark"),
]
# One release of each variant, with the patches of unused parameters that it needs besides those for Spark
RELEASES = {
    "1.7.1": ("tft-static-encoder",),
    "1.7.4": ("tft-static-encoder", "tft-static-context"),
    "2.0.1": (),
    "3.0.2": ("tft-static-context",),
    "3.1.4": (),
    "3.1.9": (),
    "3.2.0": (),
    "3.3.0": ("tft-static-context",),
}
HERE = Path(__file__).parent
TIMEOUT_SECONDS = 1200


def patches_on_spark(site: Path) -> list[str]:
    """The Spark patches that an install needs."""
    patches = json.loads(invoke("status", "spark", "--site-packages", site, "--json").stdout)["patches"]
    return [patch["id"] for patch in patches if patch["state"] == "applicable"]


@pytest.mark.parametrize("release", RELEASES)
def test_verify_on_spark_passes_for_each_patch(
    release: str, released: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, folder = released(release), tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(folder))
    patches = [*patches_on_spark(site), *RELEASES[release]]
    where = ("--python", SPARK_PYTHON, "--site-packages", site, "--timeout", TIMEOUT_SECONDS)

    names = ["spark", *RELEASES[release]]
    command = [sys.executable, "-m", "nfpatch", "verify", *names, "--preview", "--launcher", "spark", "--json"]
    done = subprocess.run(
        [*command, *map(str, where)], env=environment(ROOT), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr + done.stdout
    proved = json.loads(done.stdout)
    assert (set(proved["proved"]), proved["unproved"]) == ({*patches}, [])
    assert (proved["world_size"], proved["backend"]) == (2, "gloo")
    assert processes_with(str(tmp_path)) == set()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("release", ["1.7.1", "1.7.4", "3.1.9", "3.3.0"])
def test_what_the_docs_state_of_spark_holds_on_patched_releases(
    release: str, released: Callable[[str], Path], tmp_path: Path
) -> None:
    site, out = released(release), tmp_path / "out"
    assert invoke("apply", "all", "--site-packages", site).exit_code == 0
    variables = {**environment(site), "PYSPARK_PYTHON": str(SPARK_PYTHON)}
    command = [str(SPARK_PYTHON), HERE / "spark_statements.py", out]
    code, results, output = run_ranks(command, out, variables, TIMEOUT_SECONDS)
    assert code == 0, output[-3000:]
    assert {name: found for name, found in results[0].items() if found != "holds"} == {}


def test_no_process_is_left_when_verify_on_spark_is_killed(released: Callable[[str], Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nfpatch", "verify", "spark-trainer-arguments", "--preview", "--launcher", "spark"]
    where = ["--python", str(SPARK_PYTHON), "--site-packages", str(released("3.3.0"))]
    process = subprocess.Popen(
        [*command, *where], env={**environment(ROOT), MARK: str(tmp_path)}, stderr=subprocess.DEVNULL
    )

    def has_started() -> bool:
        commands = [Path("/proc", str(pid), "cmdline") for pid in processes_with(str(tmp_path))]
        return any(b"SparkSubmit" in path.read_bytes() for path in commands if path.exists())

    wait_until(has_started)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: processes_with(str(tmp_path)) == set())


def wait_until(is_so: Callable[[], bool]) -> None:
    """Waits until `is_so` returns true; fails after two minutes."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
