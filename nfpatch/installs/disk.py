"""Files that are whole whatever happens: made beside what they replace, flushed, and with its mode and owner."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def duplicate(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link where possible, else a copy with mode, times and owner."""
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # no hard links on this file system, another file system, or links to others' files are forbidden
        import shutil

        with naming(target):
            shutil.copy2(source, target)
            copy_owner(source.stat(), target)
            with target.open("rb") as copy:
                os.fsync(copy.fileno())


def write_new(path: Path, content: bytes, like: Path) -> None:
    """Make a new file with this content, on the disk, and with the mode and owner of `like` if that exists."""
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            with suppress(FileNotFoundError):
                model = like.stat()
                os.chmod(path, stat.S_IMODE(model.st_mode))
                copy_owner(model, path)
            file.flush()
            os.fsync(file.fileno())


def make_folder_like_parent(path: Path) -> None:
    """Make a folder, unless it is there, with the mode and owner of the folder that it is in."""
    path.mkdir(exist_ok=True)
    model = path.parent.stat()
    if stat.S_IMODE(path.stat().st_mode) != stat.S_IMODE(model.st_mode):
        os.chmod(path, stat.S_IMODE(model.st_mode))
    copy_owner(model, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give the errors of operations on a descriptor the path that they lack."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def copy_owner(model: os.stat_result, path: Path) -> None:
    """Give a file the owner and group of another, where the system lets us."""
    own = path.stat()
    if (own.st_uid, own.st_gid) != (model.st_uid, model.st_gid):
        with suppress(PermissionError):  # only root may give files away; anyone else's are its own anyway
            os.chown(path, model.st_uid, model.st_gid)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable; where a folder cannot be opened (Windows), the system sees to it itself."""
    with naming(folder):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except PermissionError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
