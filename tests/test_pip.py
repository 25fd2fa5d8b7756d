"""Installers and nfpatch on the same install do not break each other."""

from __future__ import annotations

import py_compile
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import wheel_of
from support import (
    CORE,
    NBEATSX,
    PACKAGE_OF_MODULES,
    PLACEMENT,
    SOME_PATCHES,
    TFT,
    Entry,
    answer,
    dist_info,
    environment,
    false_record_rows,
    make_venv,
    pip,
    site_packages_of,
    snapshot,
    states,
    unlisted_files,
)

Installer = Callable[..., str]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an empty environment."""
    return make_venv(tmp_path / "env")


@pytest.fixture
def installed(python: Path) -> Path:
    """The site-packages folder of an environment in which pip installed and compiled 1.7.4."""
    pip(python, "install", "--quiet", "--no-deps", wheel_of("1.7.4"))
    site = site_packages_of(python)
    assert list((site / "neuralforecast").rglob("*.pyc"))
    return site


@pytest.fixture
def uv(uv_executable: Path, python: Path, tmp_path: Path) -> Installer:
    """`uv pip` on the environment, with a package cache of its own."""

    def run(command: str, *arguments: object) -> str:
        command_line = [
            uv_executable,
            "pip",
            command,
            "--python",
            python,
            "--offline",
            "--cache-dir",
            tmp_path / "cache",
        ]
        return subprocess.run(
            [*command_line, *map(str, arguments)], env=environment(), capture_output=True, text=True, check=True
        ).stdout

    return run


def compile_patched_modules(site: Path, *levels: int) -> None:
    """Compile the patched modules, as importing them does, at these optimization levels."""
    added = sorted(path.relative_to(site).as_posix() for path in (site / PACKAGE_OF_MODULES).glob("*.py"))
    for file in (NBEATSX, TFT, CORE, *added):
        for level in levels or (0,):  # pip knows of no other, nfpatch or not
            py_compile.compile(str(site / file), doraise=True, optimize=level)


def times(folder: Path) -> dict[str, int]:
    """When each file below a folder was last changed."""
    return {
        path: (folder / path).lstat().st_mtime_ns for path, entry in snapshot(folder).items() if entry.kind != "folder"
    }


def without_bytecode(entries: dict[str, Entry]) -> dict[str, Entry]:
    """A snapshot without the content of compiled files, which contains the times of their sources."""
    return {path: entry._replace(content=b"") if path.endswith(".pyc") else entry for path, entry in entries.items()}


def apply(site: Path) -> None:
    assert set(answer("apply", *SOME_PATCHES, "--site-packages", site)["changed"]) >= {NBEATSX, TFT, CORE, PLACEMENT}


# --- pip


@pytest.mark.parametrize("imported", [False, True], ids=["untouched", "imported"])
def test_pip_uninstall_removes_everything(imported: bool, python: Path) -> None:
    site = site_packages_of(python)
    before = snapshot(site)
    pip(python, "install", "--quiet", "--no-deps", wheel_of("1.7.4"))
    apply(site)
    if imported:
        compile_patched_modules(site)
    pip(python, "uninstall", "--quiet", "--yes", "neuralforecast")
    assert snapshot(site) == before


def test_a_forced_reinstall_restores_the_released_files(python: Path, installed: Path) -> None:
    released = without_bytecode(snapshot(installed))
    apply(installed)
    compile_patched_modules(installed)
    pip(python, "install", "--quiet", "--force-reinstall", "--no-deps", wheel_of("1.7.4"))
    assert without_bytecode(snapshot(installed)) == released
    assert set(states(installed).values()) <= {"applicable", "not-needed"}
    assert false_record_rows(installed) == []


def test_record_is_as_pip_wrote_it_after_a_forced_revert_of_an_edited_file(installed: Path) -> None:
    released = snapshot(installed)
    apply(installed)
    with (installed / TFT).open("a") as file:
        file.write("# mine\n")
    assert TFT in answer("revert", "--force", "--site-packages", installed)["changed"]
    left = snapshot(installed)
    assert left.pop(f"{TFT}.nfpatch-saved").content.endswith(b"# mine\n")
    assert left == released


def test_an_upgrade_to_a_fixed_release_leaves_no_trace_of_nfpatch(
    python: Path, installed: Path, tmp_path: Path
) -> None:
    apply(installed)
    compile_patched_modules(installed)
    pip(python, "install", "--quiet", "--upgrade", "--no-deps", wheel_of("1.7.7"))

    fresh = make_venv(tmp_path / "fresh")
    pip(fresh, "install", "--quiet", "--no-deps", wheel_of("1.7.7"))
    assert without_bytecode(snapshot(installed)) == without_bytecode(snapshot(site_packages_of(fresh)))
    state = states(installed)
    assert (state["nbeatsx-unused-out"], state["tft-static-encoder"]) == ("not-needed", "not-needed")
    assert false_record_rows(installed) == []


def test_pip_reports_a_patched_install_as_before_and_lists_the_added_files(python: Path, installed: Path) -> None:
    before = pip(python, "check", check=False)
    apply(installed)
    assert pip(python, "check", check=False) == before

    _, _, files = pip(python, "show", "--files", "neuralforecast").partition("\nFiles:\n")
    listed = {line.strip() for line in files.splitlines()}
    own = {
        path.relative_to(installed).as_posix()
        for path in (dist_info(installed) / "nfpatch").rglob("*")
        if path.is_file()
    }
    assert own
    assert own | {NBEATSX, TFT, PLACEMENT} <= listed
    assert [path for path in listed if not (installed / path).is_file()] == []
    assert unlisted_files(installed) == []


def test_revert_restores_site_packages_as_pip_wrote_it(installed: Path) -> None:
    compile_patched_modules(installed, 0, 1, 2)
    (installed / NBEATSX).chmod(0o640)
    before, before_times = snapshot(installed), times(installed)
    apply(installed)
    compiled = list((installed / NBEATSX).parent.glob("__pycache__/nbeatsx.*"))
    assert compiled == []
    assert false_record_rows(installed) == []

    compile_patched_modules(installed, 0, 1)
    assert list((installed / PACKAGE_OF_MODULES).glob("__pycache__/placement.*.pyc"))
    answer("revert", "--site-packages", installed)
    assert snapshot(installed) == before
    assert times(installed) == before_times


# --- uv


@pytest.mark.parametrize("imported", [False, True], ids=["untouched", "imported"])
def test_uv_uninstall_removes_everything(imported: bool, uv: Installer, python: Path) -> None:
    site = site_packages_of(python)
    before = snapshot(site)
    uv("install", "--no-deps", wheel_of("1.7.4"))
    apply(site)
    if imported:
        compile_patched_modules(site)
    uv("uninstall", "neuralforecast")
    assert snapshot(site) == before
