"""One writer at a time: the lock of an install.

An `flock` on a file of our own rather than the `filelock` library: revert must leave no lock file behind, so the holder
unlinks it, and a waiter must notice that its file is no longer the one in the folder. filelock notices from version
3.20 on, which Python 3.9 does not get, and its import would be the most expensive part of `revert`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

from nfpatch.errors import EnvironmentProblem, as_problem
from nfpatch.installs.find import Install

LOCK_TIMEOUT_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.05


@contextmanager
def locked(install: Install, timeout: float) -> Iterator[None]:
    """Hold the one lock of this install. `timeout` is in seconds.

    Raises EnvironmentProblem when the lock is not to be had in time, or the folder is not writable.
    """
    path = lock_path(install)
    deadline = time.monotonic() + timeout
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise EnvironmentProblem(
                f"Another nfpatch is at work on this install ({_holder(path)} holds {path}); it did not finish within "
                f"{timeout:g} seconds. Run the command again when it has ended."
            )
        time.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        _unlink_own(path, descriptor)
        with suppress(OSError):
            os.close(descriptor)


def refuse_windows() -> None:
    """Raise EnvironmentProblem on Windows, which has no `flock`, and refuses to rename over a file that is open."""
    if sys.platform == "win32":
        raise EnvironmentProblem(
            "nfpatch does not work on Windows, where its locks and renames are untested; run it on Linux, "
            "as in WSL or a container. Nothing was changed."
        )


def lock_path(install: Install) -> Path:
    """Where the lock file of an install is while it is held."""
    return install.home.with_name(install.home.name + ".lock")


def _unlink_own(path: Path, descriptor: int) -> None:
    """Remove the lock file while it is still ours. If it stays, it does no harm; the next holder removes it."""
    for _ in range(2):  # a passing fault shall not leave it
        try:
            if _is_still_at(path, descriptor):  # never another's, which may be there once ours is gone
                path.unlink()
            return
        except OSError:
            continue


def _try_lock(path: Path) -> Optional[int]:
    """The descriptor of the locked lock file; None while another process holds it."""
    import fcntl

    try:
        descriptor, created = _open_lock(path)
    except OSError as error:
        raise as_problem(error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if created:
            path.unlink()
        os.close(descriptor)
        raise EnvironmentProblem(
            f"{path} cannot be locked: {error.strerror}. The file system has no working locks; patch a copy on a local "
            "disk, or where the image is built."
        ) from error
    if not _is_still_at(path, descriptor):  # the last holder unlinked it while we opened it
        os.close(descriptor)
        return None
    with suppress(OSError):  # only for the message that others get
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())
    return descriptor


def _open_lock(path: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether it was made just now."""
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
