"""Helpers that the tests share: running commands, and comparing trees."""

from __future__ import annotations

import base64
import csv
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner, Result
from releases import RELEASES
from versions import interpreters

import nfpatch.target
from nfpatch.cli import main

COMMANDS = {name: main.get_command(click.Context(main), name) for name in main.list_commands(click.Context(main))}
NBEATSX = "neuralforecast/models/nbeatsx.py"
TFT = "neuralforecast/models/tft.py"
# Two patches of one file each. A test that needs any patched install uses them, so that its cost does not grow with the
# catalog.
BASIC_PATCHES = ("nbeatsx-unused-out", "tft-static-encoder")
# And one whose hook needs runtime modules.
SOME_PATCHES = (*BASIC_PATCHES, "load-on-fewer-devices")
CORE = "neuralforecast/core.py"
PACKAGE_OF_MODULES = "neuralforecast/_nfpatch"
PLACEMENT = f"{PACKAGE_OF_MODULES}/placement.py"


def long(*values: object) -> Any:
    """Parameters of a test that `make test` leaves out, and `make test-long` or `make journeys` runs."""
    return pytest.param(*values, marks=pytest.mark.long)


# For a matrix over the releases: one of each layout of their files in `make test`, and all in `make test-long`.
SAMPLE_OF_RELEASES = ("1.0.0", "1.4.0", "1.6.4", "1.7.4", "2.0.1", "3.1.6", "3.3.0")
EACH_RELEASE = tuple(release if release in SAMPLE_OF_RELEASES else long(release) for release in RELEASES)
# Options of an interpreter by which torch's launcher starts two processes of a script.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
RANKS_TIMEOUT_SECONDS = 300
# An interpreter with Lightning 1.6.5 for the oldest releases, if there is one.
OLD_PYTHON = os.environ.get("NFPATCH_OLD_PYTHON")
# For PYTHONPATH: pretended GPUs.
PRETENDED = Path(nfpatch.target.__file__).parent / "pretended"


def dist_info(site: Path) -> Path:
    """The one dist-info folder of neuralforecast in a site-packages folder."""
    (found,) = site.glob("neuralforecast-*.dist-info")
    return found


def invoke(*arguments: object) -> Result:
    """Run the nfpatch command in this process, with separate standard output and standard error."""
    separate = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}  # before click 8.2
    return CliRunner(**separate).invoke(main, [str(argument) for argument in arguments], prog_name="nfpatch")


def answer(*arguments: object) -> Any:
    """The JSON document that an nfpatch command prints."""
    return json.loads(invoke(*arguments, "--json").stdout)


def states(site: Path, patches: Sequence[str] = SOME_PATCHES) -> dict[str, str]:
    """Patch id -> state of these patches in `status`."""
    return {patch: state for patch, state in all_states(site).items() if patch in patches}


def all_states(site: Path) -> dict[str, str]:
    """Patch id -> state of every patch of the catalog."""
    return {patch["id"]: patch["state"] for patch in answer("status", "--site-packages", site)["patches"]}


def on_some(command: str) -> list[str]:
    """A command with the ids of these patches; `status` needs none."""
    words = command.split()
    return words if words[0] == "status" else [*words, *SOME_PATCHES]


def run_nfpatch(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the nfpatch command in a new process."""
    command = [sys.executable, "-m", "nfpatch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def run_ranks(
    command: Sequence[object],
    out: Path,
    variables: Mapping[str, str],
    timeout: float = RANKS_TIMEOUT_SECONDS,
    threads: int = 1,
) -> tuple[int, list[Any], str]:
    """Run a training script on the CPU, in a new folder `out`, with these variables and this number of threads.

    Returns the exit code, the content of out/rank-N.json by rank, and the output.
    """
    out.mkdir()
    done = subprocess.run(
        [str(word) for word in command],
        env={**variables, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""},
        cwd=out,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    records = [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))]
    return done.returncode, records, done.stdout + done.stderr


class Entry(NamedTuple):
    """One path of a tree: its kind and mode, and its content or link target, if any."""

    kind: str
    mode: int
    content: bytes


def snapshot(folder: Path) -> dict[str, Entry]:
    """Everything below a folder, by path."""
    entries = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                entry = Entry("link", 0, os.fsencode(os.readlink(path)))
            elif stat.S_ISDIR(status.st_mode):
                entry = Entry("folder", stat.S_IMODE(status.st_mode), b"")
            else:
                entry = Entry("file", stat.S_IMODE(status.st_mode), path.read_bytes())
            entries[path.relative_to(folder).as_posix()] = entry
    return entries


def false_record_rows(site: Path) -> list[str]:
    """The paths of RECORD that are missing or differ from their row, by an independent implementation."""
    false = []
    with (dist_info(site) / "RECORD").open(newline="", encoding="utf-8") as file:
        for path, hash_, size in csv.reader(file):
            target = site / path
            if not target.is_file():
                false.append(path)
            elif hash_:
                algorithm, _, digest = hash_.partition("=")
                content = target.read_bytes()
                padded = digest + "=" * (-len(digest) % 4)
                same = hashlib.new(algorithm, content).digest() == base64.urlsafe_b64decode(padded)
                if not same or int(size) != len(content):
                    false.append(path)
    return false


def unlisted_files(site: Path) -> list[str]:
    """The files of the distribution that RECORD does not list, except bytecode."""
    with (dist_info(site) / "RECORD").open(newline="", encoding="utf-8") as file:
        listed = {row[0] for row in csv.reader(file)}
    owned = [site / "neuralforecast", dist_info(site)]
    present = [path for folder in owned for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted(
        path.relative_to(site).as_posix() for path in present if path.relative_to(site).as_posix() not in listed
    )


# The variable by which the processes that a test starts are found.
MARK = "NFPATCH_TEST"
# The variable that names the folder of the nfpatch that a test runs, where that is not ROOT.
SOURCE_FOLDER = "NFPATCH_TEST_SOURCE"
ROOT = Path(__file__).resolve().parent.parent


def environment(*path: Path) -> dict[str, str]:
    """The environment of a process with these folders on its Python path, and no others of ours.

    ROOT stands for the nfpatch that this test runs.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    source = os.environ.get(SOURCE_FOLDER, str(ROOT))
    return {**inherited, "PYTHONPATH": os.pathsep.join(source if each == ROOT else str(each) for each in path)}


def old_interpreters() -> dict[tuple[int, int], Path]:
    """Interpreters that are too old to run nfpatch, but whose neuralforecast it can patch."""
    return {version: path for version, path in interpreters().items() if version < (3, 9)}


def make_venv(folder: Path, python: Path = Path(sys.executable)) -> Path:
    """The interpreter of a new, bare virtual environment, even pip left out."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def site_packages_of(python: Path) -> Path:
    """The site-packages folder of a virtual environment, by its interpreter."""
    (found,) = python.parent.parent.glob("lib/python*/site-packages")
    return found


def pip(python: Path, *arguments: object, check: bool = True) -> str:
    """Run pip on the environment of another interpreter; its output."""
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert result.returncode == 0 or not check, result.stderr
    return result.stdout


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all processes of a test run share."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    return factory.getbasetemp().parent if is_worker else factory.getbasetemp()


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once a test run, however many processes run the tests."""
    base = shared_folder(factory)
    folder, done = base / f"shared-{name}", base / f"shared-{name}.done"
    with (base / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a failed attempt
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def processes_with(mark: str, *others: str) -> set[int]:
    """The processes that a test started and that also have these environment settings."""
    wanted = {setting.encode() for setting in (f"{MARK}={mark}", *others)}
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(environ.read_bytes().split(b"\0")):
                found.add(int(environ.parent.name))
        except OSError:  # exited in the meantime, or of another user
            continue
    return found
