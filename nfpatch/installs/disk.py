"""Reading files without blocking, and writing them so that they are complete and flushed to disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nfpatch.errors import InstallEnvironmentError, RefusedError

LARGEST_FILE_BYTES = 32 * 1024 * 1024


def read_file(path: Path) -> bytes:
    """The content of a regular file. Never blocks, as reading a pipe would.

    Raises FileNotFoundError, RefusedError for anything but a regular file or for one that is too large to belong to
    neuralforecast, and InstallEnvironmentError if it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _not_a_regular_file(path)
            if status.st_size > LARGEST_FILE_BYTES:
                raise RefusedError(
                    f"{path} has {status.st_size} bytes, far more than any file of neuralforecast, so nfpatch does not "
                    "read it. Reinstall neuralforecast."
                )
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.readall()
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise _not_a_regular_file(path) from error
        advice = "Reinstall neuralforecast" if error.errno == errno.ELOOP else "Re-run as a user with read access"
        raise InstallEnvironmentError(f"Cannot read {path}: {error.strerror}. {advice}.") from error


def _not_a_regular_file(path: Path) -> RefusedError:
    return RefusedError(f"{path} is not a regular file, so nfpatch does not touch it. Reinstall neuralforecast.")


def link_or_copy(source: Path, target: Path) -> None:
    """Create `target` as a hard link to `source` if possible, else as a copy with the same mode, times and owner."""
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, one without hard links, or a system that forbids links to others' files
        import shutil

        with add_path_to_oserror(target):
            shutil.copy2(source, target)
            copy_owner(source.stat(), target)
            with target.open("rb") as copy:
                os.fsync(copy.fileno())


def write_new(path: Path, content: bytes, like: Path) -> None:
    """Create a file with this content and flush it, with the mode and owner of `like` if that exists."""
    with add_path_to_oserror(path):
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
    """Create a folder unless it exists, with the mode and owner of its parent."""
    path.mkdir(exist_ok=True)
    model = path.parent.stat()
    if stat.S_IMODE(path.stat().st_mode) != stat.S_IMODE(model.st_mode):
        os.chmod(path, stat.S_IMODE(model.st_mode))
    copy_owner(model, path)


@contextmanager
def add_path_to_oserror(path: Path) -> Iterator[None]:
    """Add the path to OSErrors that lack one, such as those of operations on a file descriptor."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def copy_owner(model: os.stat_result, path: Path) -> None:
    """Give a file the owner and group of another, if permitted."""
    own = path.stat()
    if (own.st_uid, own.st_gid) != (model.st_uid, model.st_gid):
        with suppress(PermissionError):  # only root may change the owner; the files of other users are their own anyway
            os.chown(path, model.st_uid, model.st_gid)


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk; on Windows, where a folder cannot be opened, the system does it itself."""
    with add_path_to_oserror(folder):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except PermissionError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
