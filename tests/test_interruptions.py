"""Killed at any moment, and failing at any operation: nothing is lost, and the next command heals it.

The patch is one of four files, in which it stands as a whole or not at all.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Strike, fail_at, kill_at, remembered_edits, run_forked
from support import MISSION, Entry, answer, dist_info, false_record_rows, invoke, snapshot

from nfpatch.fingerprints import read_fingerprints
from nfpatch.patching.rewriting import check_parses

Tree = dict[str, Entry]

# Small ones, as each is rewritten and parsed hundreds of times
FILES = tuple(f"neuralforecast/models/{name}.py" for name in ("dlinear", "mlp", "mlpmultivariate", "tcn"))
FOUR_FILES = f"""
from nfpatch.catalog import Patch
from nfpatch.codemod import Change, Rewrite

FIRST = Rewrite((Change("", "import torch", "import torch\\nimport math"),))

patch = Patch(
    id="four-files",
    summary="a bug that stands in four files",
    group="multi-process",
    model="any",
    upstream="made up",
    variants={{"==1.7.4": {{file: FIRST for file in {FILES!r}}}}},
    unaffected={{"!=1.7.4": "made up"}},
    cases=(),
)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder with the patch of four files."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "four_files.py").write_text(FOUR_FILES)
    return folder


def on_four_files(command: str, own: Path, site: Path) -> list[object]:
    """A command on that patch. The bytes that it comes to are on no record, so apply is told to go on."""
    options = ("four-files", *(["--allow-modified"] if command == "apply" else [])) if command != "status" else ()
    return [command, *options, "--patches", own, "--site-packages", site]


def state(own: Path, site: Path) -> str:
    told = answer(*on_four_files("status", own, site))["patches"]
    (found,) = (patch["state"] for patch in told if patch["id"] == "four-files")
    return str(found)


@pytest.fixture
def trees(site: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Tree, Tree]:
    """A released and a patched site-packages folder with compiled files, and what they look like."""
    monkeypatch.setattr("nfpatch.patching.rewriting.edits_of", remembered_edits)
    monkeypatch.setattr("nfpatch.catalog.read_fingerprints", functools.cache(read_fingerprints))
    monkeypatch.setattr("nfpatch.patching.rewriting.check_parses", functools.cache(check_parses))
    keep_only_the_target_files(site)
    cache = site / "neuralforecast" / "models" / "__pycache__"
    cache.mkdir()
    (cache / "mlp.cpython-311.pyc").write_bytes(b"compiled")
    patched = tmp_path / "patched"
    shutil.copytree(site, patched)
    assert invoke(*on_four_files("apply", own, patched)).exit_code == 0
    return site, patched, snapshot(site), snapshot(patched)


def keep_only_the_target_files(site: Path) -> None:
    """Makes the tree small, so that hundreds of copies of it take seconds."""
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


def fresh(source: Path, tmp_path: Path, name: str = "work") -> Path:
    work = tmp_path / name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work, symlinks=True)
    return work


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_kill_at_any_operation_loses_nothing(
    command: str, trees: tuple[Path, Path, Tree, Tree], own: Path, tmp_path: Path
) -> None:
    released_site, patched_site, released, patched = trees
    points = 0
    while True:
        work = fresh(released_site if command == "apply" else patched_site, tmp_path)
        ended = run_forked(on_four_files(command, own, work), work, kill_at(points + 1))
        if ended.code == 0:
            break
        assert ended.code == -9, ended
        points += 1

        left = snapshot(work)
        for file in FILES:
            assert left[file].content in (released[file].content, patched[file].content)
        told = state(own, work)
        assert snapshot(work) == left, "status changes nothing"
        if not (unchanged(left, released) or unchanged(left, patched)):
            assert told == "interrupted"

        copy = fresh(work, tmp_path, "copy")
        assert snapshot(copy) == left
        for healing, healed, whole in (("apply", copy, patched), ("revert", work, released)):
            assert answer(*on_four_files(healing, own, healed))["patches"][0]["state"] != "interrupted"
            assert snapshot(healed) == whole, f"kill point {points}, healed by {healing}"
            assert false_record_rows(healed) == []
    assert points > 50
    print(f"{command}: {points} kill points")


def unchanged(left: Tree, whole: Tree) -> bool:
    """Whether what the interpreter and the installer see is that of a whole state, whatever nfpatch left of its own."""

    def seen(tree: Tree) -> Tree:
        return {path: entry for path, entry in tree.items() if ".dist-info/nfpatch" not in path}

    return seen(left) == seen(whole)


@pytest.mark.parametrize("command", ["apply", "revert"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_an_operation_that_fails_leaves_the_tree_as_it_was(
    command: str, number: int, trees: tuple[Path, Path, Tree, Tree], own: Path, tmp_path: Path
) -> None:
    check_failures(command, trees, own, tmp_path, lambda point: fail_at(point, number))


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_disk_that_stays_full_leaves_the_tree_as_it_was(
    command: str, trees: tuple[Path, Path, Tree, Tree], own: Path, tmp_path: Path
) -> None:
    check_failures(command, trees, own, tmp_path, lambda point: fail_at(point, errno.ENOSPC, from_then_on=True))


def check_failures(
    command: str, trees: tuple[Path, Path, Tree, Tree], own: Path, tmp_path: Path, strike_at: Callable[[int], Strike]
) -> None:
    released_site, patched_site, released, patched = trees
    before, after = (released, patched) if command == "apply" else (patched, released)
    point, work = 0, fresh(released_site if command == "apply" else patched_site, tmp_path)
    failures = 0
    while True:
        point += 1
        ended = run_forked(on_four_files(command, own, work), work, strike_at(point))
        left = snapshot(work)
        if ended.code == 0 and ended.operations < point:
            assert left == after
            break
        if ended.code == 0:
            assert left == after, f"operation {point} failed without harm, yet: {difference(left, after)}"
            work = fresh(released_site if command == "apply" else patched_site, tmp_path)
            continue
        failures += 1
        assert ended.code == 4, f"operation {point}: {ended}"
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert str(work) in ended.stderr, ended.stderr
        assert left == before, f"operation {point}: {difference(left, before)}; {ended.stderr}"
    assert failures > 30
    print(f"{command}: {point - 1} operations made to fail, {failures} of them with exit code 4")


def difference(one: Tree, other: Tree) -> list[str]:
    return sorted(path for path in {*one, *other} if one.get(path) != other.get(path))


def test_a_killed_run_leaves_no_lock_behind_that_blocks(site: Path) -> None:
    (dist_info(site) / "nfpatch.lock").write_text("process 1 on nowhere")
    assert invoke("apply", *MISSION, "--lock-timeout", 0, "--site-packages", site).exit_code == 0
    assert not (dist_info(site) / "nfpatch.lock").exists()
