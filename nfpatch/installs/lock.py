"""The lock of an install, so that only one process changes it at a time.

It is an `flock` on a file of our own, not the `filelock` library. `revert` must not leave a lock file behind, so the
holder deletes it, and a waiting process must notice that its file was deleted. filelock notices since version 3.20,
which does not support Python 3.9, and its import would be the most expensive part of `revert`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

from nfpatch.errors import InstallEnvironmentError, to_environment_error
from nfpatch.installs.find import Install

LOCK_TIMEOUT_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.05


@contextmanager
def locked(install: Install, timeout: float) -> Iterator[None]:
    """Hold the lock of this install. `timeout` is in seconds.

    Raises InstallEnvironmentError if the lock is not acquired in time, or if the folder is not writable.
    """
    path = lock_path(install)
    deadline = time.monotonic() + timeout
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise InstallEnvironmentError(
                f"Cannot lock this install within {timeout:g} seconds: another nfpatch works on it ({_holder(path)} "
                f"holds {path}). Re-run the command when that has finished."
            )
        time.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        _unlink_own(path, descriptor)
        with suppress(OSError):
            os.close(descriptor)


def refuse_windows() -> None:
    """Raise InstallEnvironmentError on Windows, which has no `flock` and cannot rename over an open file."""
    if sys.platform == "win32":
        raise InstallEnvironmentError(
            "nfpatch does not support Windows (its file locks and renames are untested there). Use Linux, WSL or a "
            "container. Nothing was changed."
        )


def lock_path(install: Install) -> Path:
    """The path of the lock file, which exists only while the lock is held."""
    return install.home.with_name(install.home.name + ".lock")


def _unlink_own(path: Path, descriptor: int) -> None:
    """Delete the lock file while the lock is held. If that fails, the next holder deletes it."""
    for _ in range(2):  # in case of a transient fault
        try:
            if _is_still_at(path, descriptor):  # it may be the file of another process by now
                path.unlink()
            return
        except OSError:
            continue


def _try_lock(path: Path) -> Optional[int]:
    """The descriptor of the locked file; None if another process holds the lock."""
    import fcntl

    try:
        descriptor, created = _open_lock(path)
    except OSError as error:
        raise to_environment_error(error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if created:
            path.unlink()
        os.close(descriptor)
        raise InstallEnvironmentError(
            f"Cannot lock {path}: {error.strerror}. The file system does not support locks. Patch a copy on a local "
            "disk, or patch where the image is built."
        ) from error
    if not _is_still_at(path, descriptor):  # the previous holder deleted it in the meantime
        os.close(descriptor)
        return None
    with suppress(OSError):  # it is only used in the error message of other processes
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())
    return descriptor


def _open_lock(path: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether this call created it."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT, 0o644), False


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()[:200] or "a process"
    except OSError:
        return "a process"
