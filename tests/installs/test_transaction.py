"""Transactions execute all of their steps or none, whichever operation fails and whenever the process is killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest
from faults import Ended, Strike, call_forked, fail_at, kill_at
from support import Entry, snapshot

from nfpatch.errors import InstallEnvironmentError, RefusedError
from nfpatch.installs.find import Install
from nfpatch.installs.lock import lock_path
from nfpatch.installs.transaction import (
    FileStep,
    Folder,
    Link,
    LinkOrCopy,
    Move,
    Prune,
    Remove,
    Write,
    commit,
    has_leftovers,
    is_interrupted,
    recover,
)

PACKAGE = "neuralforecast"
HOME = "neuralforecast-1.7.4.dist-info/nfpatch"
OTHER_DISK = OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.fixture(autouse=True)
def populated(install: Install) -> None:
    """Create files in the package, one for each kind of change."""
    package = install.package
    contents = {"replaced": "old", "removed": "old", "kept": "kept", "linked": "old", "taken": "taken", "over": "old"}
    for name, content in contents.items():
        (package / f"{name}.py").write_text(f"{content}\n")
    (package / "taken_link.py").symlink_to("kept.py")
    os.link(package / "kept.py", package / "twin.py")
    (package / "replaced.py").chmod(0o640)
    (package / "kept.py").chmod(0o604)
    (package / "restored.py").symlink_to("kept.py")
    for name in ("emptied", "full"):
        (package / name).mkdir()
        (package / name / "compiled.pyc").write_text("compiled\n")


def steps(install: Install) -> list[FileStep]:
    """Every kind of step, on existing paths and on missing ones."""
    package, home = install.package, install.home
    return [
        LinkOrCopy(home / "originals" / PACKAGE / "models" / "replaced.py.orig", package / "replaced.py"),
        LinkOrCopy(home / "originals" / "restored.py.orig", package / "restored.py"),
        Write(package / "replaced.py", b"new\n"),
        Write(package / "made.py", b"made\n", like=package / "kept.py"),
        Write(home / "ledger.json", b"{}\n", like=package / "replaced.py"),
        LinkOrCopy(package / "restored.py", package / "kept.py"),
        Remove(package / "removed.py"),
        Remove(package / "absent.py"),
        Remove(package / "emptied" / "compiled.pyc"),
        Prune(package / "emptied"),
        Prune(package / "full"),
        Prune(package / "absent"),
        Link(package / "linked.py", "kept.py"),
        Move(package / "over.py", package / "taken.py"),
        Folder(package / "new"),
        Move(package / "new" / "arrived.py", package / "taken_link.py"),
        Move(package / "twin.py", package / "kept.py"),
    ]


def after(before: dict[str, Entry]) -> dict[str, Entry]:
    """The tree after all steps."""
    gone = {f"{PACKAGE}/{name}" for name in ("removed.py", "emptied", "emptied/compiled.pyc")}
    gone |= {f"{PACKAGE}/{name}.py" for name in ("taken", "taken_link", "kept")}
    folder = Entry("folder", before[PACKAGE].mode, b"")
    return {
        **{path: entry for path, entry in before.items() if path not in gone},
        HOME: folder,
        f"{HOME}/originals": folder,
        f"{HOME}/originals/{PACKAGE}": folder,
        f"{HOME}/originals/{PACKAGE}/models": folder,
        f"{HOME}/originals/{PACKAGE}/models/replaced.py.orig": Entry("file", 0o640, b"old\n"),
        f"{HOME}/originals/restored.py.orig": Entry("link", 0, b"kept.py"),
        f"{HOME}/ledger.json": Entry("file", 0o640, b"{}\n"),
        f"{PACKAGE}/replaced.py": Entry("file", 0o640, b"new\n"),
        f"{PACKAGE}/made.py": Entry("file", 0o604, b"made\n"),
        f"{PACKAGE}/restored.py": Entry("file", 0o604, b"kept\n"),
        f"{PACKAGE}/linked.py": Entry("link", 0, b"kept.py"),
        f"{PACKAGE}/over.py": before[f"{PACKAGE}/taken.py"],
        f"{PACKAGE}/new": folder,
        f"{PACKAGE}/new/arrived.py": Entry("link", 0, b"kept.py"),
    }


def steps_back(install: Install) -> list[FileStep]:
    """Steps that undo the others, and leave no file of nfpatch."""
    package, originals = install.package, install.home / "originals"
    return [
        LinkOrCopy(package / "replaced.py", originals / PACKAGE / "models" / "replaced.py.orig"),
        Remove(originals / PACKAGE / "models" / "replaced.py.orig"),
        Link(package / "restored.py", "kept.py"),
        Remove(originals / "restored.py.orig"),
        Write(package / "removed.py", b"old\n", like=package / "__init__.py"),
        Write(package / "linked.py", b"old\n", like=package / "__init__.py"),
        Write(package / "emptied" / "compiled.pyc", b"compiled\n", like=package / "__init__.py"),
        Remove(package / "made.py"),
        Remove(install.home / "ledger.json"),
        Move(package / "taken.py", package / "over.py"),
        Write(package / "over.py", b"old\n", like=package / "__init__.py"),
        Move(package / "taken_link.py", package / "new" / "arrived.py"),
        Prune(package / "new"),
        LinkOrCopy(package / "kept.py", package / "twin.py"),
    ]


# --- all steps ---


def test_every_step_is_executed_and_no_other_file_is_left(install: Install) -> None:
    before = snapshot(install.root)
    commit(install, steps(install))
    assert snapshot(install.root) == after(before)
    assert not has_leftovers(install)


def test_reverting_leaves_no_folder_of_nfpatch(install: Install) -> None:
    before = snapshot(install.root)
    commit(install, steps(install))
    commit(install, steps_back(install))
    assert snapshot(install.root) == before


def test_a_commit_without_steps_changes_nothing(install: Install) -> None:
    before = snapshot(install.root)
    commit(install, [])
    assert snapshot(install.root) == before


def test_an_original_keeps_its_inode_and_hard_linked_copies_their_content(install: Install, tmp_path: Path) -> None:
    twin = tmp_path / "twin.py"
    os.link(install.package / "replaced.py", twin)
    commit(install, steps(install))
    assert twin.read_bytes() == b"old\n"
    assert twin.samefile(install.home / "originals" / PACKAGE / "models" / "replaced.py.orig")
    commit(install, steps_back(install))
    assert twin.samefile(install.package / "replaced.py")


@pytest.mark.parametrize("kind", ["checkout", "editable"])
def test_a_source_checkout_is_changed_like_an_installed_package(kind: str, install: Install, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    install.package.rename(tree / PACKAGE)
    of_tree = install._replace(root=tree, dist_info=None if kind == "checkout" else install.dist_info)
    commit(of_tree, steps(of_tree))
    assert (tree / PACKAGE / "replaced.py").read_bytes() == b"new\n"
    assert (of_tree.home / "ledger.json").read_bytes() == b"{}\n"


def test_a_file_on_another_file_system_is_replaced_with_its_mode(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    (install.package / ".replaced.py.nfpatch-new").write_text("left by a killed run\n")
    before = snapshot(install.root)
    del before[f"{PACKAGE}/.replaced.py.nfpatch-new"]
    package_on_another_disk(install, monkeypatch)
    commit(install, steps(install))
    assert snapshot(install.root) == after(before)


def package_on_another_disk(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make renames between nfpatch's folder and the package fail with EXDEV."""
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        if (install.home in source.parents) != (install.home in target.parents):
            raise OTHER_DISK
        rename(source, target)

    monkeypatch.setattr("os.replace", replace)


# --- failures ---


class Renaming:
    """`os.replace`, which raises in the calls of these numbers, counted from 1."""

    def __init__(self, failing: Container[int], error: BaseException) -> None:
        self.rename = os.replace
        self.failing = failing
        self.error = error
        self.number = 0

    def __call__(self, source: Path, target: Path) -> None:
        self.number += 1
        if self.number in self.failing:
            raise self.error
        self.rename(source, target)


# The first rename is the journal's, the others are those of the steps.
RENAMES = range(1, 13)


@pytest.mark.parametrize("number", RENAMES)
def test_a_failing_rename_rolls_back_the_steps_before_it(
    number: int, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(install.root)
    monkeypatch.setattr("os.replace", Renaming({number}, OSError(errno.EACCES, "Permission denied", "tft.py")))
    with pytest.raises(InstallEnvironmentError) as problem:
        commit(install, steps(install))
    assert "tft.py: Permission denied" in str(problem.value)
    assert snapshot(install.root) == before


def test_a_keyboard_interrupt_rolls_back_and_propagates(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(install.root)
    monkeypatch.setattr("os.replace", Renaming({RENAMES[-1]}, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        commit(install, steps(install))
    assert snapshot(install.root) == before


def test_a_failing_copy_to_another_file_system_leaves_no_partial_file(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(install.root)
    package_on_another_disk(install, monkeypatch)
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if source.name.endswith(".nfpatch-new"):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InstallEnvironmentError) as problem:
        commit(install, steps(install))
    path = install.package / "replaced.py"
    assert f"{path}: No space left on device" in str(problem.value)
    assert snapshot(install.root) == before


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("failing", "journal"),
    [(range(6, 99), "journal.json"), ({6, *range(8, 99)}, "undo.json")],
    ids=["the rollback cannot start", "the rollback fails"],
)
def test_work_that_can_be_neither_finished_nor_rolled_back_is_recovered_later(
    failing: Container[int], journal: str, named: bool, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(install.root)
    with monkeypatch.context() as patch:
        patch.setattr(
            "os.replace", Renaming(failing, OSError(errno.EIO, "Input/output error", *(["tft.py"] if named else [])))
        )
        with pytest.raises(InstallEnvironmentError) as problem:
            commit(install, steps(install))
    assert f"{'tft.py' if named else 'the install'}: Input/output error" in str(problem.value)
    assert "`nfpatch apply`" in str(problem.value)
    assert (install.home / "staging" / journal).is_file()
    assert recover(install) is True
    assert snapshot(install.root) == (after(before) if journal == "journal.json" else before)


@pytest.fixture
def fresh(install: Install, tmp_path: Path) -> Callable[[], None]:
    """Restores the install as it was when the test began."""
    kept = tmp_path / "kept"
    shutil.copytree(install.root, kept, symlinks=True)

    def restore() -> None:
        shutil.rmtree(install.root)
        shutil.copytree(kept, install.root, symlinks=True)

    return restore


def committed_in_a_fork(install: Install, strike: Strike) -> Ended:
    """Commit the steps in a forked process, which `strike` kills or makes fail."""

    def action() -> tuple[int, str]:
        commit(install, steps(install))
        return 0, ""

    return call_forked(action, install.root, strike)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_a_failing_operation_leaves_all_or_nothing(number: int, install: Install, fresh: Callable[[], None]) -> None:
    before = snapshot(install.root)
    point = 1
    while (ended := committed_in_a_fork(install, fail_at(point, number))).operations >= point:
        left = snapshot(install.root)
        if ended.code == 0 and f"{PACKAGE}/emptied" in left:
            del left[f"{PACKAGE}/emptied"]  # a folder that cannot be removed is left, which is harmless
        assert left == (before if ended.code else after(before)), f"operation {point}: {ended}"
        fresh()
        point += 1
    assert (ended.code, point > 60) == (0, True)


# --- kills ---


@pytest.mark.slow
def test_after_a_kill_at_any_operation_recovery_leaves_all_or_nothing(
    install: Install, fresh: Callable[[], None]
) -> None:
    before = snapshot(install.root)
    point = 1
    while (ended := committed_in_a_fork(install, kill_at(point))).code != 0:
        assert ended.code == -signal.SIGKILL, ended
        check_recovery(install, before, after(before))
        fresh()
        point += 1
    assert point > 60


@pytest.mark.slow
def test_after_a_kill_during_the_rollback_recovery_leaves_nothing(install: Install, fresh: Callable[[], None]) -> None:
    before = snapshot(install.root)
    later = 1
    while (ended := committed_in_a_fork(install, fail_to_remove_and_be_killed(later))).code < 0:
        rolled_back = (install.home / "staging" / "undo.json").exists()
        check_recovery(install, before, before if rolled_back else after(before))
        fresh()
        later += 1
    assert (ended.code, later > 20) == (1, True)


def fail_to_remove_and_be_killed(later: int) -> Strike:
    """Make the first removal of a file fail, and kill the process before the N-th operation after it."""
    failed: list[int] = []

    def strike(number: int, kind: str) -> None:
        if failed and number == failed[0] + later:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "os.remove" and not failed:
            failed.append(number)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return strike


def check_recovery(install: Install, before: dict[str, Entry], decided: dict[str, Entry]) -> None:
    """Recovery finishes or rolls back the work of a killed run, by its journal, and removes all leftovers."""
    interrupted = is_interrupted(install)
    assert recover(install) is interrupted
    assert snapshot(install.root) in ([decided] if interrupted else [before, decided])
    assert not has_leftovers(install)


def test_a_failed_recovery_is_reported_and_a_later_one_finishes(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(install.root)
    committed_in_a_fork(install, kill_at_removal)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", refuse)
        with pytest.raises(InstallEnvironmentError) as problem:
            recover(install)
    assert "tft.py: Read-only file system" in str(problem.value)
    assert "`nfpatch apply`" in str(problem.value)
    check_recovery(install, before, after(before))


def kill_at_removal(number: int, kind: str) -> None:
    if kind == "os.remove":
        os.kill(os.getpid(), signal.SIGKILL)


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system", "tft.py")


# --- journals ---


def write_journal(install: Install, journal: str, content: str) -> Path:
    """Write the journal of a killed run; return its folder."""
    staging = install.home / "staging"
    staging.mkdir(parents=True)
    (staging / journal).write_text(content)
    return staging


def line(install: Install, path: Path, kind: str, existed: bool) -> list[object]:
    return [os.path.relpath(path, install.home), kind, existed]


@pytest.mark.parametrize("journal", ["journal.json", "undo.json"])
@pytest.mark.parametrize(
    "content",
    [
        *("", "{", '{"a": 1}', "1", "[[1, 2]]", '[[1, "Write", true]]', '[["a", 2, true]]', '[["a", "Write", 3]]'),
        '[["../METADATA", "Remove", true], ["a", "Write", 3]]',
        '[["a", "Move", true, 4]]',
    ],
)
def test_a_damaged_journal_is_refused_with_its_path(content: str, journal: str, install: Install) -> None:
    staging = write_journal(install, journal, content)
    before = snapshot(install.root)
    with pytest.raises(RefusedError) as refused:
        recover(install)
    assert str(refused.value).startswith(str(staging / journal))
    assert "Reinstall" in str(refused.value)
    assert snapshot(install.root) == before


def test_the_traceback_of_a_refused_journal_names_the_cause(install: Install) -> None:
    write_journal(install, "undo.json", '[["a", "Write", 3]]')
    with pytest.raises(RefusedError) as refused:
        recover(install)
    assert isinstance(refused.value.__cause__, ValueError)


@pytest.mark.parametrize("copy", [os.link, shutil.copy2], ids=["link", "copy"])
@pytest.mark.parametrize("name", ["replaced.py", "restored.py"])
def test_rollback_does_not_touch_unchanged_files(
    name: str, copy: Callable[..., object], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install.package / name
    staging = write_journal(install, "undo.json", json.dumps([line(install, path, "Write", True)]))
    copy(path, staging / "old-0", follow_symlinks=False)
    before = snapshot(install.package)
    monkeypatch.setattr("os.replace", refuse)
    assert recover(install) is True
    assert snapshot(install.package) == before
    assert not has_leftovers(install)


def other_content(path: Path) -> None:
    status = path.stat()
    path.write_text("new\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_mode(path: Path) -> None:
    path.chmod(0o600)


def other_time(path: Path) -> None:
    os.utime(path, (1, 1))


def link_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to("kept.py")


def file_instead(path: Path) -> None:
    path.unlink()
    path.write_text("old\n")


def other_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("replaced.py")


def nothing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("replaced.py", other_content),
        ("replaced.py", other_mode),
        ("replaced.py", other_time),
        ("replaced.py", link_instead),
        ("replaced.py", nothing),
        ("restored.py", other_link),
        ("restored.py", file_instead),
        ("restored.py", nothing),
    ],
)
def test_rollback_restores_changed_files(name: str, change: Callable[[Path], None], install: Install) -> None:
    path = install.package / name
    before, time = snapshot(install.root), path.lstat().st_mtime_ns
    staging = write_journal(install, "undo.json", json.dumps([line(install, path, "Write", True)]))
    shutil.copy2(path, staging / "old-0", follow_symlinks=False)
    change(path)
    assert recover(install) is True
    assert snapshot(install.root) == before
    assert path.lstat().st_mtime_ns == time


# --- leftovers ---


def killed_before_the_journal(install: Install) -> None:
    (install.home / "staging").mkdir(parents=True)
    (install.home / "staging" / "new-0").write_text("new\n")


def killed_in_the_lock(install: Install) -> None:
    lock_path(install).touch()


def killed_before_the_last_folder_was_removed(install: Install) -> None:
    install.home.mkdir()


def killed_in_the_steps(install: Install) -> None:
    write_journal(install, "journal.json", "[]")


def killed_in_the_rollback(install: Install) -> None:
    write_journal(install, "undo.json", "[]")


def patched(install: Install) -> None:
    install.home.mkdir()
    (install.home / "ledger.json").touch()


def untouched(install: Install) -> None:
    pass


@pytest.mark.parametrize(
    ("left", "interrupted", "leftovers"),
    [
        (untouched, False, False),
        (patched, False, False),
        (killed_in_the_lock, False, True),
        (killed_before_the_journal, False, True),
        (killed_before_the_last_folder_was_removed, False, True),
        (killed_in_the_steps, True, True),
        (killed_in_the_rollback, True, True),
    ],
)
def test_leftovers_of_a_killed_run_are_detected_and_recovery_removes_all_but_the_lock(
    left: Callable[[Install], None], interrupted: bool, leftovers: bool, install: Install
) -> None:
    left(install)
    assert (is_interrupted(install), has_leftovers(install)) == (interrupted, leftovers)
    assert recover(install) is interrupted
    assert (is_interrupted(install), has_leftovers(install)) == (False, left is killed_in_the_lock)
    assert install.home.exists() == (left is patched)


@pytest.mark.parametrize("times", [1, 2])
def test_leftovers_that_cannot_be_removed_are_left_to_the_next_command(
    times: int, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_the_journal(install)
    unlink = os.unlink
    failures = [OSError(errno.EIO, "Input/output error")] * times

    def failing(path: Path) -> None:
        if failures:
            raise failures.pop()
        unlink(path)

    monkeypatch.setattr("os.unlink", failing)
    assert recover(install) is False
    assert has_leftovers(install) == (times > 1)


# --- paths outside of the install ---


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder outside of the install."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "precious.py").write_text("precious\n")
    return folder


def refusal(action: Callable[[], Any], install: Install) -> str:
    """The message with which the action is refused, which writes nothing."""
    before = snapshot(install.root.parent)
    with pytest.raises(RefusedError) as refused:
        action()
    assert snapshot(install.root.parent) == before
    return str(refused.value)


@pytest.mark.parametrize("folder", ["../precious", ".", "neuralforecast_too", "neuralforecast/../.."])
@pytest.mark.usefixtures("precious")
def test_a_step_outside_of_the_install_is_refused_before_any_other(folder: str, install: Install) -> None:
    step = Remove(install.root / folder / "precious.py")
    refused = refusal(lambda: commit(install, [*steps(install), step]), install)
    assert refused.startswith(str(install.root / folder))


def test_a_folder_at_the_path_of_a_file_to_remove_is_refused(install: Install) -> None:
    before = snapshot(install.root)
    with pytest.raises(InstallEnvironmentError):
        commit(install, [*steps(install), Remove(install.package / "full")])
    assert snapshot(install.root) == before


def test_a_move_of_nothing_is_refused(install: Install) -> None:
    before = snapshot(install.root)
    with pytest.raises(InstallEnvironmentError):
        commit(install, [*steps(install), Move(install.package / "over.py", install.package / "absent.py")])
    assert snapshot(install.root) == before


@pytest.mark.usefixtures("precious")
def test_a_move_from_outside_of_the_install_is_refused(install: Install) -> None:
    step = Move(install.package / "over.py", install.root / ".." / "precious" / "precious.py")
    refused = refusal(lambda: commit(install, [step]), install)
    assert refused.startswith(str(install.root / ".." / "precious"))


@pytest.mark.parametrize("journal", ["journal.json", "undo.json"])
def test_a_journal_that_moves_from_outside_is_refused(journal: str, precious: Path, install: Install) -> None:
    outside = os.path.relpath(precious / "precious.py", install.home)
    write_journal(install, journal, json.dumps([[*line(install, install.package / "over.py", "Move", True), outside]]))
    assert refusal(lambda: recover(install), install).startswith(str(precious))


@pytest.mark.parametrize("journal", ["journal.json", "undo.json"])
@pytest.mark.parametrize("kind", ["Write", "Remove", "Prune"])
def test_a_journal_that_leads_outside_is_refused(kind: str, journal: str, precious: Path, install: Install) -> None:
    staging = write_journal(install, journal, json.dumps([line(install, precious / "precious.py", kind, False)]))
    for name in ("new-0", "old-0"):
        (staging / name).write_text("evil\n")
    assert refusal(lambda: recover(install), install).startswith(str(precious))


@pytest.mark.parametrize("linked", [PACKAGE, f"{PACKAGE}/models", HOME])
def test_a_folder_that_is_a_link_to_the_outside_is_refused(linked: str, install: Install, tmp_path: Path) -> None:
    folder = install.root / linked
    (tmp_path / "elsewhere").mkdir()
    if folder.exists():
        folder.rename(tmp_path / "elsewhere" / folder.name)
    folder.symlink_to(tmp_path / "elsewhere" / folder.name)
    step = Write(install.package / "models" / "tft.py", b"new\n")
    assert refusal(lambda: commit(install, [step]), install).startswith(str(folder))


def test_a_folder_that_is_a_link_within_the_package_is_followed(install: Install) -> None:
    (install.package / "models").rename(install.package / "real")
    (install.package / "models").symlink_to("real")
    commit(install, [Write(install.package / "models" / "tft.py", b"new\n")])
    assert (install.package / "real" / "tft.py").read_bytes() == b"new\n"


@pytest.mark.parametrize("error", [OSError("a loop"), RuntimeError("a loop")], ids=["OSError", "RuntimeError"])
def test_links_that_cannot_be_followed_are_refused(
    error: Exception, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(path: Path, strict: bool = False) -> Path:
        raise error

    monkeypatch.setattr("pathlib.Path.resolve", resolve)
    refused = refusal(lambda: commit(install, steps(install)), install)
    assert str(install.package) in refused
