"""Killed at any moment, and failing at any operation: nothing is lost, and the next command heals it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Strike, fail_at, kill_at, remembered_edits, run_forked
from support import (
    MISSION,
    NBEATSX,
    TFT,
    Entry,
    answer,
    dist_info,
    false_record_rows,
    invoke,
    mission,
    snapshot,
    states,
)

Tree = dict[str, Entry]


@pytest.fixture
def trees(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Tree, Tree]:
    """A released and a patched site-packages folder with compiled files, and what they look like."""
    monkeypatch.setattr("nfpatch.patching.rewriting.edits_of", remembered_edits)
    keep_only_the_target_files(site)
    cache = site / "neuralforecast" / "models" / "__pycache__"
    cache.mkdir()
    (cache / "tft.cpython-311.pyc").write_bytes(b"compiled")
    patched = tmp_path / "patched"
    shutil.copytree(site, patched)
    assert invoke("apply", *MISSION, "--site-packages", patched).exit_code == 0
    return site, patched, snapshot(site), snapshot(patched)


def keep_only_the_target_files(site: Path) -> None:
    """Makes the tree small, so that hundreds of copies of it take seconds."""
    record = dist_info(site) / "RECORD"
    rows = [line for line in record.read_text().splitlines(keepends=True) if is_kept(line.split(",")[0])]
    record.write_text("".join(rows))
    for path in list((site / "neuralforecast").rglob("*.py")):
        if not is_kept(path.relative_to(site).as_posix()):
            path.unlink()


def is_kept(path: str) -> bool:
    return path in (NBEATSX, TFT) or ".dist-info/" in path


def fresh(source: Path, tmp_path: Path) -> Path:
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    return work


@pytest.mark.parametrize("command", ["apply", "revert"])
@pytest.mark.parametrize("healing", ["apply", "revert"])
def test_a_kill_at_any_operation_loses_nothing(
    command: str, healing: str, trees: tuple[Path, Path, Tree, Tree], tmp_path: Path
) -> None:
    released_site, patched_site, released, patched = trees
    points = 0
    while True:
        work = fresh(released_site if command == "apply" else patched_site, tmp_path)
        ended = run_forked([*mission(command), "--site-packages", work], work, kill_at(points + 1))
        if ended.code == 0:
            break
        assert ended.code == -9, ended
        points += 1

        left = snapshot(work)
        for file in (NBEATSX, TFT):
            assert left[file].content in (released[file].content, patched[file].content)
        told = states(work)
        assert snapshot(work) == left, "status changes nothing"
        if not (unchanged(left, released) or unchanged(left, patched)):
            assert set(told.values()) == {"interrupted"}

        assert answer(*mission(healing), "--site-packages", work)["patches"][0]["state"] != "interrupted"
        assert snapshot(work) == (patched if healing == "apply" else released), f"kill point {points}"
        assert false_record_rows(work) == []
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
    command: str, number: int, trees: tuple[Path, Path, Tree, Tree], tmp_path: Path
) -> None:
    check_failures(command, trees, tmp_path, lambda point: fail_at(point, number))


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_disk_that_stays_full_leaves_the_tree_as_it_was(
    command: str, trees: tuple[Path, Path, Tree, Tree], tmp_path: Path
) -> None:
    check_failures(command, trees, tmp_path, lambda point: fail_at(point, errno.ENOSPC, from_then_on=True))


def check_failures(
    command: str, trees: tuple[Path, Path, Tree, Tree], tmp_path: Path, strike_at: Callable[[int], Strike]
) -> None:
    released_site, patched_site, released, patched = trees
    before, after = (released, patched) if command == "apply" else (patched, released)
    point, work = 0, fresh(released_site if command == "apply" else patched_site, tmp_path)
    failures = 0
    while True:
        point += 1
        ended = run_forked([*mission(command), "--site-packages", work], work, strike_at(point))
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
