"""A fit on Spark finds its files on DBFS, which it reads through fsspec's Databricks file system."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PRETENDED, environment, invoke, long

SCRIPT = Path(__file__).parent / "dbfs.py"
RELEASES = ["3.3.0", *map(long, ("1.7.4", "2.0.1", "3.0.2", "3.1.9", "3.2.0", "3.2.1"))]
NOT_LISTED = "AttributeError: 'dict' object has no attribute 'endswith'"
NOT_READ = "FileNotFoundError: [Errno 2] No such file or directory: 'dbfs:/partitions/part-"


@pytest.mark.parametrize("release", RELEASES)
def test_fit_finds_its_files_on_dbfs(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)

    def run(name: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / name
        folder.mkdir()
        command = [training_env, SCRIPT, folder]
        return subprocess.run(
            command, env=environment(site, PRETENDED), cwd=folder, capture_output=True, text=True, check=False
        )

    assert (NOT_READ if release >= "3.2.1" else NOT_LISTED) in run("released").stderr
    assert invoke("apply", "spark-dbfs-paths", "--site-packages", site).exit_code == 0
    patched = run("patched")
    assert patched.stdout.splitlines()[-1:] == ["100 rows"], patched.stderr
