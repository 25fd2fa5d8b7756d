from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import CACHE, unpack
from support import made_once

TRAINING_PYTHON = CACHE / "training" / "bin" / "python"


@pytest.fixture
def released(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a site-packages folder with a release, as its wheel lays it out."""
    return lambda release: unpack(release, tmp_path / f"site-{release}")


@pytest.fixture
def site(released: Callable[[str], Path]) -> Path:
    """A site-packages folder with neuralforecast 1.7.4, which needs both patches of the mission."""
    return released("1.7.4")


@pytest.fixture(scope="session")
def training_env() -> Path:
    """The interpreter of an environment that trains: neuralforecast 1.7.4 with torch 2.13.0. `make test` builds it."""
    python = Path(os.environ.get("NFPATCH_TRAINING_PYTHON", TRAINING_PYTHON))
    if not python.exists():
        pytest.fail("the training environment is missing: run `make training-env`")
    return python


@pytest.fixture(scope="session")
def python37() -> Path:
    """A real Python 3.7, the oldest that a target interpreter may be; the test is skipped on a machine without one."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which("python3.7"), *versions.glob("3.7*/bin/python")]
    for python in filter(None, candidates):
        # pyenv's shims are there for every version, but run only the active one.
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return Path(python)
    pytest.skip("no Python 3.7 on this machine")


@pytest.fixture(scope="session")
def uv_executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installer uv, from the package index."""

    def download(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        if subprocess.run([*pip, "--target", folder, "uv"], capture_output=True, check=False).returncode != 0:
            pytest.skip("uv cannot be installed here")

    return made_once("uv", tmp_path_factory, download) / "bin" / "uv"
