"""Moves an install to a new state: all of it or none of it, whatever happens on the way.

Everything that will be needed is first prepared in `staging/` beside the ledger and flushed to disk: `new-N`, what is
to stand at the N-th path, and `old-N`, what stands there now. Then `journal.json` is renamed into place, and from that
moment on the new state is decided: each `new-N` is renamed over its path, and whoever comes after a crash does the
rest. A step is done when its `new-N` is gone, so steps may be repeated at will. A Move renames what it takes, and a
Remove renames to `old-N`; they are done when nothing stands there. If a step fails while nfpatch runs, the journal
becomes `undo.json` and the `old-N` go back. A folder that is empty by then is moved to `folder-N`, because to make it
again takes room that a full disk does not have.

No existing file is ever opened for writing. `old-N` and the kept originals are hard links where the file system has
them, so an original keeps its inode, and with it mode, owner and times; twins in a package cache are not touched.
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

from nfpatch.errors import Refused, as_problem
from nfpatch.installs.disk import duplicate, flush_folder, make_folder_like_parent, read_file, write_new
from nfpatch.installs.find import Install
from nfpatch.installs.lock import lock_path

JOURNAL_NAME = "journal.json"
UNDO_NAME = "undo.json"
# What is said where the work can be neither done nor undone.
HALF_DONE = "The work is half done, and no file is damaged: the next `nfpatch apply` or `nfpatch revert` completes it."


class Write(NamedTuple):
    """Put this content at the path, with the mode and owner of `like` (default: of what stands there)."""

    path: Path
    content: bytes
    like: Optional[Path] = None


class Place(NamedTuple):
    """Put what stands at `source` at the path, the same inode if possible; `source` itself stays."""

    path: Path
    source: Path


class Move(NamedTuple):
    """Put what stands at `source` at the path; nothing stands at `source` then."""

    path: Path
    source: Path


class Link(NamedTuple):
    """Put a symbolic link to `target` at the path."""

    path: Path
    target: str


class Remove(NamedTuple):
    """Let nothing stand at the path."""

    path: Path


class Folder(NamedTuple):
    """Let there be a folder; a new one gets the mode and owner of the folder around it."""

    path: Path


class Prune(NamedTuple):
    """Remove the folder if it is empty by now."""

    path: Path


Step = Union[Write, Place, Move, Link, Remove, Folder, Prune]


class _Entry(NamedTuple):
    """One line of the journal: the path, the kind of step, whether anything was there, and where a Move takes from.

    Paths are relative to the home folder.
    """

    path: str
    kind: str
    existed: bool
    source: str = ""


def commit(install: Install, steps: Sequence[Step]) -> None:
    """Carry out the steps, all or none. The caller holds the lock and has called `recover`.

    Raises EnvironmentProblem naming the path when the system refuses a step; the install is then as it was.
    """
    home = install.home
    staging = home / "staging"
    taken = [step.source for step in steps if isinstance(step, Move)]
    _require_inside(install, [*taken, *(step.path for step in steps)])
    try:
        staging.mkdir(parents=True)
        entries = [_stage(staging, number, step, home) for number, step in enumerate(steps)]
        flush_folder(staging)
        _write_journal(staging, entries)
    except BaseException as error:
        _discard(home)
        raise as_problem(error) from error
    try:
        _carry_out(home, entries)
    except BaseException as error:
        try:
            os.replace(staging / JOURNAL_NAME, staging / UNDO_NAME)
            _take_back(home, entries)
        except OSError as second:
            raise as_problem(second, HALF_DONE) from error
        _discard(home)
        raise as_problem(error) from error
    _discard(home)


def is_interrupted(install: Install) -> bool:
    """Whether a killed run left work half done here."""
    staging = install.home / "staging"
    return (staging / JOURNAL_NAME).exists() or (staging / UNDO_NAME).exists()


def has_litter(install: Install) -> bool:
    """Whether a killed run left anything of its own here, be it only a lock file."""
    home = install.home
    return (home / "staging").exists() or lock_path(install).exists() or (home.exists() and not any(home.iterdir()))


def recover(install: Install) -> bool:
    """Finish what a killed run had decided, or take back what it was taking back. Tells whether there was anything.

    The caller holds the lock. Raises EnvironmentProblem when the system refuses a step; a later call goes on.
    """
    home = install.home
    undo, redo = _read_journal(home / "staging" / UNDO_NAME), _read_journal(home / "staging" / JOURNAL_NAME)
    _require_inside(install, [_absolute(home, path) for path in _paths_of(undo or redo or ())])
    try:
        if undo is not None:
            _take_back(home, undo)
        elif redo is not None:
            _carry_out(home, redo)
        else:
            return False
    except OSError as error:
        raise as_problem(error, HALF_DONE) from error
    finally:
        if not is_interrupted(install):
            _discard(home)
    return True


def _stage(staging: Path, number: int, step: Step, home: Path) -> _Entry:
    existed = os.path.lexists(step.path)
    if isinstance(step, Remove):
        _require_no_folder(step.path)
    elif existed and not isinstance(step, (Folder, Prune)):
        duplicate(step.path, staging / f"old-{number}")
    new = staging / f"new-{number}"
    if isinstance(step, Write):
        write_new(new, step.content, like=step.like or step.path)
    elif isinstance(step, Place):
        duplicate(step.source, new)
    elif isinstance(step, Link):
        os.symlink(step.target, new)
    source = ""
    if isinstance(step, Move):
        os.lstat(step.source)  # raises FileNotFoundError while nothing is changed yet
        source = os.path.relpath(step.source, home)
    return _Entry(os.path.relpath(step.path, home), type(step).__name__, existed, source)


def _carry_out(home: Path, entries: Sequence[_Entry]) -> None:
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
    _flush(home, [entry.path for entry in entries])  # what a Move has taken away is litter if it comes back
    (staging / JOURNAL_NAME).unlink()


def _take_back(home: Path, entries: Sequence[_Entry]) -> None:
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
            if os.path.lexists(path):  # a read-only file system refuses to remove even what is not there
                path.unlink()
        elif os.path.lexists(old) and not _is_the_same(old, path):
            _rename_over(old, path)
    with suppress(OSError):  # what made the work fail shall not keep it from being undone
        _flush(home, _paths_of(entries))
    (staging / UNDO_NAME).unlink()


def _paths_of(entries: Sequence[_Entry]) -> list[str]:
    """What the steps change, relative to the home folder."""
    return [path for entry in entries for path in (entry.path, entry.source) if path]


def _require_no_folder(path: Path) -> None:
    """Raises IsADirectoryError where a folder stands, which a rename would take away with all that is in it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _make_parent(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)


def _move_over(source: Path, target: Path) -> None:
    """Rename; where both are links to one file, for which a rename does nothing, remove the source."""
    if os.path.lexists(target) and os.path.samestat(os.lstat(source), os.lstat(target)):
        source.unlink()
    else:
        _rename_over(source, target)


def _set_aside_if_empty(folder: Path, aside: Path) -> None:
    """Move an empty folder into staging, from where it can be put back on a full disk as well; leave any other.

    A folder of another file system than the ledger's is removed.
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
    if os.listdir(aside):  # something was put there at this very moment
        os.replace(aside, folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder, unless it is gone, has something in it, is a link, or is a place where something is mounted."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
            raise


def _flush(home: Path, paths: Sequence[str]) -> None:
    """Make what stands at these paths durable."""
    for folder in sorted({_absolute(home, path).parent for path in paths}):
        if folder.is_dir():
            flush_folder(folder)


def _discard(home: Path) -> None:
    """Remove the staging folder, and each folder of nfpatch's own that is empty now.

    The work is done or undone by now, so a failure is none: what stays is removed by the next command.
    """
    for _ in range(2):  # a passing fault shall leave nothing behind
        with suppress(OSError):
            _remove_flat_folder(home / "staging", first=(JOURNAL_NAME, UNDO_NAME))
        for folder, _, _ in os.walk(home, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        if not home.exists():
            return


def _remove_flat_folder(folder: Path, first: Sequence[str]) -> None:
    """Remove a folder of files and empty folders.

    Those named `first` go first: a journal without its files would be false.
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
        if error.errno != errno.EXDEV:  # `target` lies on another file system than the ledger
            raise
        beside = target.with_name(f".{target.name}.nfpatch-new")
        try:
            beside.unlink(missing_ok=True)
            duplicate(source, beside)
            os.replace(beside, target)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise
        source.unlink()


def _is_the_same(old: Path, path: Path) -> bool:
    """Whether the path still is as it was when `old` was kept, so that there is nothing to take back."""
    try:
        was, now = old.lstat(), path.lstat()
        if os.path.samestat(was, now):
            return True
        if stat.S_ISLNK(was.st_mode):  # where no link is now, `readlink` fails, as `lstat` does where nothing is
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
            raise ValueError("a field of another type")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Refused(
            f"{path} is damaged, so the work that a killed run left half done cannot be finished. Reinstall "
            "neuralforecast to start clean."
        ) from error
    return entries


def _require_inside(install: Install, paths: Sequence[Path]) -> None:
    """Raise Refused unless each of these paths lies, links resolved, in the install or in nfpatch's own folder."""
    try:
        allowed = [folder.resolve() for folder in (install.package, install.home.parent)]
        homes = [(install.home.parent.resolve() / install.home.name, install.home.resolve())]
        parents = {parent: parent.resolve() for parent in {path.parent for path in paths}}
    except (OSError, RuntimeError) as error:  # RuntimeError: how Python before 3.13 reports a loop of links
        raise Refused(f"{install.package} cannot be followed through its symbolic links: {error}.") from error
    root = install.root.resolve()
    outside = [folder for folder, real in parents.items() if not any(a == real or a in real.parents for a in allowed)]
    outside += [install.package for folder in allowed[:1] if root not in folder.parents]
    outside += [install.home for wanted, real in homes if wanted != real]
    if outside:
        raise Refused(
            f"{outside[0]} leads out of {install.root}, by a symbolic link or because of tampering with what "
            "nfpatch keeps. nfpatch writes nothing there; reinstall neuralforecast."
        )
