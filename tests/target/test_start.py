"""A program of the package is started by its path, does not change the target, and never outlives its parent."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import environment

from nfpatch.catalog import Case
from nfpatch.engine.probe import probe
from nfpatch.engine.sources import build_overlay
from nfpatch.proof.runner import RunOptions, run_proof
from nfpatch.proof.verdict import ProofCase
from nfpatch.target import ENTRY
from nfpatch.target.events import Entry, ProcessStarted, TrainSpec, encode
from nfpatch.target.messages import MigrateSpec, line_of

PROGRAMS = ("train", "migrate")
NFPATCH = ENTRY.parent.parent
# The first module of the target that each program imports.
FIRST_IMPORT = {"train": "pytorch_lightning", "migrate": "neuralforecast"}
# User modules with the names of modules of the package.
NAMES_IN_USE = sorted(path.stem for path in ENTRY.parent.iterdir() if not path.stem.startswith("_"))

LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]], close_fds=False).wait()
"""
# A byte in the pipe shows that the process has started, and its end that it has exited.
SLEEPING = """
import os, time
os.write(int(os.environ["PIPE"]), b"!")
time.sleep(3600)
"""
LOOKING = """
import importlib, json, os, sys

def look():
    modules = {name: str(getattr(module, "__file__", None)) for name, module in list(sys.modules.items())}
    seen = {"path": sys.path, "modules": modules, "argv": sys.argv, "spec": repr(sys.modules["__main__"].__spec__)}
    seen["own"] = {name: importlib.import_module(name).__file__ for name in os.environ["NAMES"].split()}
    with open(os.environ["SEEN"], "w") as file:
        json.dump(seen, file)
"""
LOOK = LOOKING + "\nlook()\nraise SystemExit\n"
SPAWN = """
import json, multiprocessing, os
from nfpatch_target.source import numbers_of

with multiprocessing.get_context("spawn").Pool(1) as pool:
    answer = [pool.apply(numbers_of, ("1.7.4",)), pool.apply(eval, ("__import__('sys').path",))]
with open(os.environ["SEEN"], "w") as file:
    json.dump(answer, file)
raise SystemExit
"""
# Seconds, for operations that take a fraction of one.
PATIENCE = 60


@dataclass(frozen=True)
class Target:
    """A folder that is first on the target's path, with only the first module that a program imports."""

    folder: Path
    python: Path

    def environment(self) -> dict[str, str]:
        ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "NAMES": " ".join(NAMES_IN_USE)}
        return {**environment(self.folder), **ranks, "SEEN": str(self.seen), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def seen(self) -> Path:
        return self.folder / "seen.json"

    def specification(self, program: str) -> Path:
        """An empty specification for the program."""
        path = self.folder / "spec.json"
        training = TrainSpec({}, (), "torchrun", "cpu", 1, 1, 1, 2, False, PATIENCE, PATIENCE, str(self.folder))
        migration = MigrateSpec((), {}, None, None, False)
        path.write_text(json.dumps(encode(training)) if program == "train" else line_of(migration))
        return path

    def run(self, program: str, first_import: str, entry: Path = ENTRY) -> Any:
        """What the code in place of the first import records."""
        (self.folder / f"{FIRST_IMPORT[program]}.py").write_text(first_import)
        with self.specification(program).open() as stdin:
            command = [self.python, entry, program, *([stdin.name] if program == "train" else [])]
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment(),
                stdin=stdin,
                capture_output=True,
                text=True,
                check=False,
            )
        log = self.folder / "rank-0.log"
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
        return json.loads(self.seen.read_text())


@pytest.fixture
def target(python: Path, tmp_path: Path) -> Target:
    for name in NAMES_IN_USE:
        (tmp_path / f"{name}.py").touch()
    return Target(tmp_path, python)


def own_modules(seen: dict[str, Any]) -> set[str]:
    """The modules in nfpatch's folder, except the script itself under its two names."""
    return {name for name, file in seen["modules"].items() if str(NFPATCH) in file} - {"__main__", "__mp_main__"}


def assert_untouched(seen: dict[str, Any], folder: Path) -> None:
    """Check that the target has nothing of nfpatch except the package under its own name."""
    assert not {str(ENTRY.parent), str(NFPATCH), ""} & set(seen["path"])
    assert {name.split(".")[0] for name in own_modules(seen)} == {"nfpatch_target"}
    assert seen["own"] == {name: str(folder / f"{name}.py") for name in NAMES_IN_USE}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_import_path_and_modules_of_the_target_are_unchanged(target: Target, program: str) -> None:
    code = "import json, sys; print(json.dumps(sys.path[1:]))"
    answer = subprocess.check_output([target.python, "-c", code], env=target.environment())
    seen = target.run(program, LOOK)

    assert_untouched(seen, target.folder)
    assert seen["path"] == json.loads(answer)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_linked_folder_of_the_package_is_removed_from_the_path_too(target: Target, program: str) -> None:
    (target.folder / "link").symlink_to(NFPATCH)
    seen = target.run(program, LOOK, target.folder / "link" / "target" / ENTRY.name)

    assert seen["modules"]["__main__"] == str(target.folder / "link" / "target" / ENTRY.name)
    assert not {str(ENTRY.parent), str(target.folder / "link" / "target"), ""} & set(seen["path"])


def test_programs_share_only_common_modules(target: Target) -> None:
    train, migrate = (own_modules(target.run(program, LOOK)) for program in PROGRAMS)

    shared = {"nfpatch_target", *(f"nfpatch_target.{name}" for name in ("events", "process", "source"))}
    assert train & migrate == shared
    assert "nfpatch_target.train" in train
    assert "nfpatch_target.saved.checking" in migrate


def test_it_can_be_restarted_with_its_own_arguments(target: Target) -> None:
    """Like Lightning's launcher does for each further process."""
    seen = target.run("train", LOOK)

    assert seen["argv"] == [str(ENTRY), "train", str(target.specification("train"))]
    assert seen["spec"] == "None"


def test_a_process_that_multiprocessing_spawns_finds_the_package(target: Target) -> None:
    numbers, path = target.run("train", SPAWN)

    assert numbers == [1, 7]
    assert not {str(ENTRY.parent), str(NFPATCH)} & set(path)


def test_without_torch_it_reports_that(target: Target) -> None:
    (target.folder / "pytorch_lightning.py").touch()
    command = [target.python, ENTRY, "train", target.specification("train")]
    done = subprocess.run(command, env=target.environment(), check=False)

    assert done.returncode == 1
    *_, last = (target.folder / "rank-0.log").read_text().splitlines()
    assert last == "ModuleNotFoundError: No module named 'torch'"


@pytest.mark.parametrize("arguments", [[], ["saved"], ["bogus"]])
def test_an_unknown_program_is_an_error(target: Target, arguments: list[str]) -> None:
    done = subprocess.run([target.python, ENTRY, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "usage: __main__.py train | migrate\n")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_inheritable(ends[1], True)
    yield ends
    os.close(ends[0])


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_exits_when_its_parent_is_killed(target: Target, program: str, pipe: tuple[int, int]) -> None:
    (target.folder / f"{FIRST_IMPORT[program]}.py").write_text(SLEEPING)
    reading, writing = pipe
    with target.specification(program).open() as stdin:
        parent = subprocess.Popen(
            [target.python, "-c", LAUNCHER, ENTRY, program, *([stdin.name] if program == "train" else [])],
            env={**target.environment(), "PIPE": str(writing)},
            stdin=stdin,
            close_fds=False,
        )
    os.close(writing)
    try:
        assert select.select([reading], [], [], PATIENCE)[0], "it did not come to its imports"
        assert os.read(reading, 1) == b"!"
    finally:
        parent.kill()
        parent.wait()

    assert select.select([reading], [], [], PATIENCE)[0], "it outlived its parent"
    assert os.read(reading, 1) == b""
    if program == "train":
        (greeting,) = map(json.loads, (target.folder / "rank-0.jsonl").read_text().splitlines())
        assert isinstance(Entry.from_json(greeting).event, ProcessStarted)


# Appended to a model's module.
LOOKING_FIT = (
    LOOKING
    + """
def fit(self, *args, **kwargs):
    look()
    return super(NHITS, self).fit(*args, **kwargs)
NHITS.fit = fit
"""
)


@pytest.mark.ddp
@pytest.mark.skipif(sys.platform != "linux", reason="requires /proc")
def test_during_training_only_the_package_is_loaded_from_nfpatch(
    training_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_packages = probe(training_env).neuralforecast
    assert site_packages is not None
    nhits = (site_packages / "neuralforecast/models/nhits.py").read_text()
    planted = {"neuralforecast/models/nhits.py": (nhits + LOOKING_FIT).encode()}
    tree = build_overlay(site_packages / "neuralforecast", tmp_path / "tree", planted)
    for name in NAMES_IN_USE:
        (tree / f"{name}.py").touch()
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setenv("NAMES", " ".join(NAMES_IN_USE))

    small = Case("NHITS", "MAE", options={"windows_batch_size": 16, "mlp_units": [[8, 8]] * 3})
    case = ProofCase("looking", None, small, "patched", "pass", strategy="single-process")
    report = run_proof(training_env, [case], {"patched": tree}, RunOptions(devices=1))

    assert report.ok, report.cases
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert_untouched(seen, tree)
    assert seen["path"][0] == str(tree)
