"""The selection of tests, and the fixtures that all tests share.

A bare `pytest` runs the quick tests: those that need no wheels, no torch and no network. `pytest PATH` runs all tests
of a path, and `-m` selects others. The markers in pyproject.toml say what a test needs; most are set here, by what it
uses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import fake_releases
import pytest
import releases
from releases import CACHE
from support import SOURCE_FOLDER, made_once

TRAINING_PYTHON = CACHE / "training" / "bin" / "python"
# Marker -> what such a test needs, and the command that runs it, in the order in which a test is counted.
DESELECTED = {
    "long": ("much time: more releases, launchers, faults", "make test-long"),
    "training": ("an environment that trains", "make test"),
    "wheels": ("released wheels of neuralforecast", "make test"),
    "network": ("the package index", "make test"),
    "slow": ("more than a second each", "make test"),
}
QUICK = f"not ({' or '.join(DESELECTED)})"
# Functions and fixtures that read wheels; a test that uses one of them gets the marker.
READERS = (releases.read_member, releases.unpack, releases.wheel_of)
FIXTURES = {"released": "wheels", "training_env": "training", "uv_executable": "network"}


def pytest_configure(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = QUICK


def is_on_fake_releases(item: pytest.Item) -> bool:
    """Whether a test uses the fake releases: marked so, and not marked `wheels`."""
    return item.get_closest_marker("fake_releases") is not None and item.get_closest_marker("wheels") is None


@pytest.hookimpl(tryfirst=True)  # before pytest's own selection by markers
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        needed = {marker for name, marker in FIXTURES.items() if name in getattr(item, "fixturenames", ())}
        if any(value in READERS for value in vars(getattr(item, "module", None)).values() if callable(value)):
            needed.add("wheels")
        if is_on_fake_releases(item):
            needed.discard("wheels")
        if item.get_closest_marker("ddp") is not None:
            needed.add("training")
        for marker in needed:
            item.add_marker(marker)


deselected: Counter[str] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        deselected[next((name for name in DESELECTED if item.get_closest_marker(name) is not None), "")] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [(deselected[name], *DESELECTED[name]) for name in DESELECTED if deselected[name]]
    if terminalreporter.config.option.markexpr != QUICK or not rows:
        return
    terminalreporter.section("not selected", sep="-")
    for count, need, command in rows:
        terminalreporter.line(f"{count:>5} tests need {need:<40} {command}")
    terminalreporter.line("      tests/runtime needs torch and Lightning                     make runtime")
    terminalreporter.line("`pytest PATH` runs all tests of a path.")


@pytest.fixture(scope="session")
def fake_nfpatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an nfpatch that knows only the fake releases."""
    return made_once("fake-nfpatch", tmp_path_factory, fake_releases.make_nfpatch)


@pytest.fixture(autouse=True)
def _fake_catalog(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make nfpatch know the fake releases, in this process and in those that the test starts."""
    if is_on_fake_releases(request.node):
        folder = request.getfixturevalue("fake_nfpatch")
        monkeypatch.setattr("nfpatch.catalog.patches_folder", lambda: folder / "patches")
        monkeypatch.setenv(SOURCE_FOLDER, str(folder))
        monkeypatch.chdir(folder)  # so that `python -m nfpatch` finds it


@pytest.fixture(autouse=True)
def _no_wheels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that reads wheels without the marker, as it would fail in a bare clone."""

    def refuse(release: str) -> Path:
        pytest.fail(f"this test reads the wheel of {release}: mark it with pytest.mark.wheels")

    if request.node.get_closest_marker("wheels") is None:
        monkeypatch.setattr(releases, "wheel_of", refuse)


@pytest.fixture
def unpack(request: pytest.FixtureRequest) -> Callable[[str, Path], Path]:
    """Unpacks a release into a site-packages folder, as an installer does."""
    return fake_releases.unpack if is_on_fake_releases(request.node) else releases.unpack


@pytest.fixture
def released(unpack: Callable[[str, Path], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a site-packages folder with a release."""
    return lambda release: unpack(release, tmp_path / f"site-{release}")


@pytest.fixture
def site(released: Callable[[str], Path]) -> Path:
    """A site-packages folder with neuralforecast 1.7.4."""
    return released("1.7.4")


@pytest.fixture(scope="session")
def training_env() -> Path:
    """The interpreter of the training environment: neuralforecast 1.7.4 with torch 2.13.0. `make test` builds it."""
    python = Path(os.environ.get("NFPATCH_TRAINING_PYTHON", TRAINING_PYTHON))
    if not python.exists():
        pytest.fail("the training environment is missing: run `make training-env`")
    return python


@pytest.fixture(scope="session")
def python37() -> Path:
    """A Python 3.7, the oldest supported target interpreter; skips the test if there is none."""
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
