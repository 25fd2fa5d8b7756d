"""Transactions on the files of an install: all steps are executed, or none, even after a crash.

Everything is first prepared in `staging/` next to the ledger and flushed to disk: `new-N` is the new content of the
N-th path, `old-N` its current content. Then `journal.json` is renamed into place, which commits the transaction: each
`new-N` is renamed over its path, and after a crash the next command executes the remaining steps. A step is done when
its `new-N` is gone, so that steps can be repeated. A Move renames its source, and a Remove renames the path to `old-N`;
these are done when the source or the path no longer exists. If a step fails while nfpatch runs, the journal is renamed
to `undo.json`, and the `old-N` are restored. A folder that becomes empty is moved to `folder-N`, because re-creating it
needs space that a full disk does not have.

No existing file is opened for writing. `old-N` and the kept originals are hard links if the file system supports them,
so an original keeps its inode with mode, owner and times, and other links to it, as in a package cache, are unaffected.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, Optional, Union

from nfpatch.errors import RefusedError, to_environment_error
from nfpatch.installs.disk import flush_folder, link_or_copy, make_folder_like_parent, read_file, write_new
from nfpatch.installs.find import Install
from nfpatch.installs.lock import lock_path

JOURNAL_NAME = "journal.json"
UNDO_NAME = "undo.json"
# The state of the install if the steps can be neither completed nor rolled back.
HALF_DONE = "The transaction is unfinished, no file is damaged: the next `nfpatch apply` or `revert` completes it."


class Write(NamedTuple):
    """Write this content to the path, with the mode and owner of `like` (default: of the file at the path)."""

    path: Path
    content: bytes
    like: Optional[Path] = None


class LinkOrCopy(NamedTuple):
    """Link `source` to the path (the same inode), or copy it if that is not possible; `source` stays."""

    path: Path
    source: Path


class Move(NamedTuple):
    """Rename `source` to the path."""

    path: Path
    source: Path


class Link(NamedTuple):
    """Create a symbolic link to `target` at the path."""

    path: Path
    target: str


class Remove(NamedTuple):
    """Delete the path if it exists."""

    path: Path


class Folder(NamedTuple):
    """Create the folder unless it exists, with the mode and owner of its parent."""

    path: Path


class Prune(NamedTuple):
    """Remove the folder if it is empty then."""

    path: Path


FileStep = Union[Write, LinkOrCopy, Move, Link, Remove, Folder, Prune]
_STAGED = (Write, LinkOrCopy, Link)  # their new content is prepared in staging


class _Entry(NamedTuple):
    """An entry of the journal: the path, the kind of step, whether the path existed, and the source of a Move.

    Paths are relative to the home folder.
    """

    path: str
    kind: str
    existed: bool
    source: str = ""


def commit(install: Install, steps: Sequence[FileStep]) -> None:
    """Execute all steps or none. The caller holds the lock and has called `recover`.

    Raises InstallEnvironmentError, with the path, if a step fails; the install is then unchanged.
    """
    home = install.home
    staging = home / "staging"
    taken = [step.source for step in steps if isinstance(step, Move)]
    _require_inside(install, [*taken, *(step.path for step in steps)])
    try:
        staging.mkdir(parents=True)
        entries = [_stage(staging, number, step, home) for number, step in enumerate(steps)]
        if any(isinstance(step, _STAGED) for step in steps):
            flush_folder(staging)  # what the journal relies on must be on disk before it
        _write_journal(staging, entries)
    except BaseException as error:
        _discard(home)
        raise to_environment_error(error) from error
    try:
        _execute(home, entries)
    except BaseException as error:
        try:
            os.replace(staging / JOURNAL_NAME, staging / UNDO_NAME)
            _rollback(home, entries)
        except OSError as second:
            raise to_environment_error(second, HALF_DONE) from error
        _discard(home)
        raise to_environment_error(error) from error
    _discard(home)


def is_interrupted(install: Install) -> bool:
    """Whether an interrupted run left an unfinished transaction here."""
    staging = install.home / "staging"
    return (staging / JOURNAL_NAME).exists() or (staging / UNDO_NAME).exists()


def has_leftovers(install: Install) -> bool:
    """Whether an interrupted run left any of its files here, including a lock file."""
    home = install.home
    return (home / "staging").exists() or lock_path(install).exists() or (home.exists() and not any(home.iterdir()))


def recover(install: Install) -> bool:
    """Complete the transaction of an interrupted run, or its rollback. Returns whether there was one.

    The caller holds the lock. Raises InstallEnvironmentError if a step fails; a later call continues.
    """
    home = install.home
    undo, redo = _read_journal(home / "staging" / UNDO_NAME), _read_journal(home / "staging" / JOURNAL_NAME)
    _require_inside(install, [_absolute(home, path) for path in _paths_of(undo or redo or ())])
    try:
        if undo is not None:
            _rollback(home, undo)
        elif redo is not None:
            _execute(home, redo)
        else:
            return False
    except OSError as error:
        raise to_environment_error(error, HALF_DONE) from error
    finally:
        if not is_interrupted(install):
            _discard(home)
    return True


def _stage(staging: Path, number: int, step: FileStep, home: Path) -> _Entry:
    existed = os.path.lexists(step.path)
    if isinstance(step, Remove):
        _require_no_folder(step.path)
    elif existed and not isinstance(step, (Folder, Prune)):
        link_or_copy(step.path, staging / f"old-{number}")
    new = staging / f"new-{number}"
    if isinstance(step, Write):
        write_new(new, step.content, like=step.like or step.path)
    elif isinstance(step, LinkOrCopy):
        link_or_copy(step.source, new)
    elif isinstance(step, Link):
        os.symlink(step.target, new)
    source = ""
    if isinstance(step, Move):
        os.lstat(step.source)  # raises FileNotFoundError before anything is changed
        source = os.path.relpath(step.source, home)
    return _Entry(os.path.relpath(step.path, home), type(step).__name__, existed, source)


def _execute(home: Path, entries: Sequence[_Entry]) -> None:
    staging = home / "staging"
    for number, entry in enumerate(entries):
        path = _absolute(home, entry.path)
        if entry.kind == "Folder":
            if not entry.existed:
                make_folder_like_parent(path)
        elif entry.kind == "Prune":
            _set_aside_if_empty(path, staging / f"folder-{number}")
        elif entry.kind == "Remove":
            if os.path.lexists(path):
                _rename_over(path, staging / f"old-{number}")
        elif entry.kind == "Move":
            source = _absolute(home, entry.source)
            if os.path.lexists(source):
                _make_parent(path)
                _move_over(source, path)
        elif os.path.lexists(new := staging / f"new-{number}"):
            _make_parent(path)
            _rename_over(new, path)
    _flush(home, [entry.path for entry in entries])  # a source of a Move that comes back is a leftover
    (staging / JOURNAL_NAME).unlink()


def _rollback(home: Path, entries: Sequence[_Entry]) -> None:
    staging = home / "staging"
    for number, entry in reversed(list(enumerate(entries))):
        path, old = _absolute(home, entry.path), staging / f"old-{number}"
        if entry.kind == "Folder":
            if not entry.existed:
                _remove_if_empty(path)
        elif entry.kind == "Prune":
            aside = staging / f"folder-{number}"
            if aside.is_dir():
                os.replace(aside, path)
            elif entry.existed and not path.is_dir():
                make_folder_like_parent(path)
        elif entry.kind == "Move" and not os.path.lexists(source := _absolute(home, entry.source)):
            _rename_over(path, source)
            if os.path.lexists(old):
                _rename_over(old, path)
        elif not entry.existed:
            if os.path.lexists(path):  # on a read-only file system, even unlinking a missing path fails
                path.unlink()
        elif os.path.lexists(old) and not _is_the_same(old, path):
            _rename_over(old, path)
    with suppress(OSError):  # the fault that made the transaction fail must not prevent the rollback
        _flush(home, _paths_of(entries))
    (staging / UNDO_NAME).unlink()


def _paths_of(entries: Sequence[_Entry]) -> list[str]:
    """The paths that the steps change, relative to the home folder."""
    return [path for entry in entries for path in (entry.path, entry.source) if path]


def _require_no_folder(path: Path) -> None:
    """Raise IsADirectoryError if the path is a folder, because a rename would move it with its content."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _make_parent(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)


def _move_over(source: Path, target: Path) -> None:
    """Rename; if both are hard links to the same file, for which a rename does nothing, delete the source."""
    if os.path.lexists(target) and os.path.samestat(os.lstat(source), os.lstat(target)):
        source.unlink()
    else:
        _rename_over(source, target)


def _set_aside_if_empty(folder: Path, aside: Path) -> None:
    """Move an empty folder into staging, from where it can be restored even on a full disk; leave any other.

    A folder on another file system than the ledger is removed.
    """
    if folder.is_symlink() or not folder.is_dir() or os.listdir(folder):
        return
    try:
        os.replace(folder, aside)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EBUSY, errno.ENOENT):
            raise
        _remove_if_empty(folder)
        return
    if os.listdir(aside):  # another process has just put something into it
        os.replace(aside, folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder, unless it is missing, not empty, a link or a mount point."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
            raise


def _flush(home: Path, paths: Sequence[str]) -> None:
    """Flush the folders that contain these paths to disk."""
    for folder in sorted({_absolute(home, path).parent for path in paths}):
        if folder.is_dir():
            flush_folder(folder)


def _discard(home: Path) -> None:
    """Remove the staging folder, and all empty folders of nfpatch.

    The transaction is complete or rolled back by now, so failures are ignored: the next command removes what is left.
    """
    for _ in range(2):  # in case of a transient fault
        with suppress(OSError):
            _remove_flat_folder(home / "staging", first=(JOURNAL_NAME, UNDO_NAME))
        for folder, _, _ in os.walk(home, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        if not home.exists():
            return


def _remove_flat_folder(folder: Path, first: Sequence[str]) -> None:
    """Remove a folder that contains only files and empty folders.

    The files named `first` are removed first: a journal without its files would be wrong.
    """
    for name in first:
        (folder / name).unlink(missing_ok=True)
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    folder.rmdir()


@cache
def _absolute(home: Path, path: str) -> Path:
    return Path(os.path.normpath(os.path.join(home, path)))


def _rename_over(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # EXDEV: `target` is on another file system than the ledger
            raise
        copy = target.with_name(f".{target.name}.nfpatch-new")
        try:
            copy.unlink(missing_ok=True)
            link_or_copy(source, copy)
            os.replace(copy, target)
        except OSError:
            with suppress(OSError):
                copy.unlink()
            raise
        source.unlink()


def _is_the_same(old: Path, path: Path) -> bool:
    """Whether the path is still as it was when `old` was kept, so that there is nothing to roll back."""
    try:
        was, now = old.lstat(), path.lstat()
        if os.path.samestat(was, now):
            return True
        if stat.S_ISLNK(was.st_mode):  # if the path is no longer a link, `readlink` raises
            return os.readlink(old) == os.readlink(path)
        facts = [(each.st_mode, each.st_uid, each.st_gid, each.st_size, each.st_mtime_ns) for each in (was, now)]
        return facts[0] == facts[1] and old.read_bytes() == path.read_bytes()
    except OSError:
        return False


def _write_journal(staging: Path, entries: Sequence[_Entry]) -> None:
    draft = staging / f"{JOURNAL_NAME}.draft"
    content = json.dumps(entries)
    write_new(draft, content.encode(), like=draft)
    os.replace(draft, staging / JOURNAL_NAME)
    flush_folder(staging)


def _read_journal(path: Path) -> Optional[list[_Entry]]:
    try:
        entries = [_Entry(*fields) for fields in json.loads(read_file(path))]
        if not all(
            isinstance(e.path, str)
            and isinstance(e.kind, str)
            and isinstance(e.existed, bool)
            and isinstance(e.source, str)
            for e in entries
        ):
            raise ValueError("a field has the wrong type")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RefusedError(
            f"{path} is damaged, so the transaction of an interrupted run cannot be completed. Reinstall "
            "neuralforecast to start clean."
        ) from error
    return entries


def _require_inside(install: Install, paths: Sequence[Path]) -> None:
    """Raise RefusedError unless these paths, with links resolved, are in the install or in nfpatch's own folder."""
    try:
        allowed = [folder.resolve() for folder in (install.package, install.home.parent)]
        homes = [(install.home.parent.resolve() / install.home.name, install.home.resolve())]
        parents = {parent: parent.resolve() for parent in {path.parent for path in paths}}
    except (OSError, RuntimeError) as error:  # RuntimeError: how Python before 3.13 reports a loop of links
        raise RefusedError(f"Cannot resolve the symbolic links of {install.package}: {error}.") from error
    root = install.root.resolve()
    outside = [folder for folder, real in parents.items() if not any(a == real or a in real.parents for a in allowed)]
    outside += [install.package for folder in allowed[:1] if root not in folder.parents]
    outside += [install.home for wanted, real in homes if wanted != real]
    if outside:
        raise RefusedError(
            f"{outside[0]} is outside of {install.root}: it is a symbolic link, or the files of nfpatch were tampered "
            "with. nfpatch does not write there. Reinstall neuralforecast."
        )
