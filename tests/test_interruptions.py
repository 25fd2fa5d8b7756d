"""A command killed at any moment or failing at any operation loses nothing, and the next command completes the work.

The patch changes four files and adds three runtime modules, all of them or none. A newer nfpatch has another hook and
another module.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import Strike, fail_at, kill_at, remembered_edits, run_forked
from support import BASIC_PATCHES, Entry, answer, dist_info, false_record_rows, invoke, long, snapshot

from nfpatch.fingerprints import read_fingerprints
from nfpatch.installs.find import RUNTIME_FOLDER, module_file
from nfpatch.patching.rewriting import check_parses

pytestmark = [pytest.mark.fake_releases, pytest.mark.slow]
# `make test` strikes at every fifth operation, `make test-long` at all of them.
STRIDES = pytest.mark.parametrize("stride", [5, long(1)])

Tree = dict[str, Entry]

# Small ones, as each is rewritten and parsed hundreds of times
FILES = tuple(f"neuralforecast/models/{name}.py" for name in ("nbeatsx", "tft", "tide", "timemixer"))
MODULES = tuple(map(module_file, ("__init__", "first", "second")))
FOUR_FILES = f"""
from nfpatch.catalog import Patch
from nfpatch.codemod import Change, Rewrite

FIRST = Rewrite((Change("", "import torch", "import torch\\nimport NAME"),), imports=("first",))

patch = Patch(
    id="four-files",
    summary="a bug in four files",
    group="multi-process",
    model="any",
    upstream="fake",
    variants={{"==1.7.4": {{file: FIRST for file in {FILES!r}}}}},
    unaffected={{"!=1.7.4": "fake"}},
    cases=(),
)
"""


class Scenario(NamedTuple):
    """A command on that patch, the folder of patches, and the states before and after."""

    command: str
    patches: str
    before: str
    after: str


SCENARIOS = {
    "apply": Scenario("apply", "own", "released", "patched"),
    "revert": Scenario("revert", "own", "patched", "released"),
    "renew": Scenario("apply", "newer", "patched", "renewed"),
}


class Trees(NamedTuple):
    """Site-packages folders in each state, their content, and the folders with the patch."""

    sites: dict[str, Path]
    looks: dict[str, Tree]
    patches: dict[str, Path]

    def run(self, command: str, patches: str, site: Path) -> list[object]:
        """The arguments of a command on that patch; without a fingerprint, `apply` needs --allow-modified."""
        named = {"apply": ("four-files", "--allow-modified"), "revert": ("four-files",), "status": ()}[command]
        return [command, *named, "--patches", self.patches[patches], "--site-packages", site]

    def state(self, patches: str, site: Path) -> str:
        patches_found = answer(*self.run("status", patches, site))["patches"]
        (found,) = (patch["state"] for patch in patches_found if patch["id"] == "four-files")
        return str(found)


def make_patches(folder: Path, imported: str, number: int) -> Path:
    """A folder with the patch of four files, whose hook imports this, and its runtime modules."""
    (folder / "runtime").mkdir(parents=True)
    (folder / "four_files.py").write_text(FOUR_FILES.replace("NAME", imported))
    (folder / "runtime" / "first.py").write_text("from . import second\n")
    (folder / "runtime" / "second.py").write_text(f"NUMBER = {number}\n")
    return folder


@pytest.fixture
def trees(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trees:
    monkeypatch.setattr("nfpatch.patching.rewriting.edits_of", remembered_edits)
    monkeypatch.setattr("nfpatch.catalog.read_fingerprints", functools.cache(read_fingerprints))
    monkeypatch.setattr("nfpatch.patching.rewriting.check_parses", functools.cache(check_parses))
    patches = {
        "own": make_patches(tmp_path / "own", "math", 1),
        "newer": make_patches(tmp_path / "newer", "cmath", 2),
    }
    keep_only_the_target_files(site)
    compile_module(site, "neuralforecast/models/tide.py")
    made = Trees({"released": site}, {"released": snapshot(site)}, patches)
    for name, before, which in (("patched", "released", "own"), ("renewed", "patched", "newer")):
        made.sites[name] = tmp_path / name
        shutil.copytree(made.sites[before], made.sites[name])
        assert invoke(*made.run("apply", which, made.sites[name])).exit_code == 0
        made.looks[name] = without_compiled_modules(snapshot(made.sites[name]))
        compile_module(made.sites[name], MODULES[1])
    return made


def compile_module(site: Path, file: str) -> None:
    cache = (site / file).parent / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / f"{(site / file).stem}.cpython-311.pyc").write_bytes(b"compiled")


def without_compiled_modules(tree: Tree) -> Tree:
    """A tree without the bytecode of runtime modules, which is never kept."""
    return {path: entry for path, entry in tree.items() if not path.startswith(f"{RUNTIME_FOLDER}/__pycache__")}


def keep_only_the_target_files(site: Path) -> None:
    """Make the tree small, so that hundreds of copies take seconds."""
    record = dist_info(site) / "RECORD"
    rows = [line for line in record.read_text().splitlines(keepends=True) if is_kept(line.split(",")[0])]
    record.write_text("".join(rows))
    for path in list((site / "neuralforecast").rglob("*.py")):
        if not is_kept(path.relative_to(site).as_posix()):
            path.unlink()
    for parent, _, _ in os.walk(site / "neuralforecast", topdown=False):
        if not os.listdir(parent):
            os.rmdir(parent)


def is_kept(path: str) -> bool:
    return path in FILES or ".dist-info/" in path


def fresh_copy(source: Path, tmp_path: Path, name: str = "work") -> Path:
    work = tmp_path / name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work, symlinks=True)
    return work


@STRIDES
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_operation_loses_nothing(scenario: str, stride: int, trees: Trees, tmp_path: Path) -> None:
    command, patches, *ends = SCENARIOS[scenario]
    before, after = (trees.looks[end] for end in ends)
    points = 0
    while True:
        work = fresh_copy(trees.sites[ends[0]], tmp_path)
        ended = run_forked(trees.run(command, patches, work), work, kill_at(points + stride))
        if ended.code == 0:
            break
        assert ended.code == -9, ended
        points += stride

        left = snapshot(work)
        for file in (*FILES, *MODULES):
            assert left.get(file) in (before.get(file), after.get(file)), file
        state = trees.state(patches, work)
        assert snapshot(work) == left, "status changes nothing"
        if not (unchanged(left, before) or unchanged(left, after)):
            assert state == "interrupted"

        copy = fresh_copy(work, tmp_path, "copy")
        assert snapshot(copy) == left
        whole = "renewed" if patches == "newer" else "patched"
        for completing, folder, name in (("apply", copy, whole), ("revert", work, "released")):
            assert answer(*trees.run(completing, patches, folder))["patches"][0]["state"] != "interrupted"
            found = snapshot(folder)
            is_whole = (found if name == "released" else without_compiled_modules(found)) == trees.looks[name]
            assert is_whole, f"kill point {points}, completed by {completing}: {difference(found, trees.looks[name])}"
            assert false_record_rows(folder) == []
    assert points > 50
    print(f"{scenario}: {points} kill points")


def unchanged(left: Tree, whole: Tree) -> bool:
    """Whether the trees are equal, apart from nfpatch's own files."""

    def seen(tree: Tree) -> Tree:
        kept = without_compiled_modules(tree)
        return {path: entry for path, entry in kept.items() if ".dist-info/nfpatch" not in path}

    return seen(left) == seen(whole)


@STRIDES
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_failing_operation_leaves_the_tree_unchanged(
    scenario: str, number: int, stride: int, trees: Trees, tmp_path: Path
) -> None:
    check_failures(scenario, stride, trees, tmp_path, lambda point: fail_at(point, number))


@STRIDES
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_full_disk_leaves_the_tree_unchanged(scenario: str, stride: int, trees: Trees, tmp_path: Path) -> None:
    check_failures(scenario, stride, trees, tmp_path, lambda point: fail_at(point, errno.ENOSPC, from_then_on=True))


def check_failures(
    scenario: str, stride: int, trees: Trees, tmp_path: Path, strike_at: Callable[[int], Strike]
) -> None:
    command, patches, start, end = SCENARIOS[scenario]
    before, after = snapshot(trees.sites[start]), trees.looks[end]
    point, work = 0, fresh_copy(trees.sites[start], tmp_path)
    failures = 0
    while True:
        point += stride
        ended = run_forked(trees.run(command, patches, work), work, strike_at(point))
        left = snapshot(work)
        if ended.code == 0 and ended.operations < point:
            assert (left if end == "released" else without_compiled_modules(left)) == after
            break
        if ended.code == 0:
            found = left if end == "released" else without_compiled_modules(left)
            assert found == after, f"operation {point} was allowed to fail, but: {difference(found, after)}"
            work = fresh_copy(trees.sites[start], tmp_path)
            continue
        failures += 1
        assert ended.code == 4, f"operation {point}: {ended}"
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert str(work) in ended.stderr, ended.stderr
        assert left == before, f"operation {point}: {difference(left, before)}; {ended.stderr}"
    assert failures > 30 // stride
    print(f"{scenario}: {point // stride - 1} operations made to fail, {failures} of them with exit code 4")


def difference(one: Tree, other: Tree) -> list[str]:
    return sorted(path for path in {*one, *other} if one.get(path) != other.get(path))


def test_a_killed_run_does_not_keep_the_lock(site: Path) -> None:
    (dist_info(site) / "nfpatch.lock").write_text("process 1 on nowhere")
    assert invoke("apply", *BASIC_PATCHES, "--lock-timeout", 0, "--site-packages", site).exit_code == 0
    assert not (dist_info(site) / "nfpatch.lock").exists()
