"""A run of processes in the target interpreter, from the start to the end of the last process."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Optional, TypeVar

from nfpatch.engine.launch import Launch, Program, termination_as_exit
from nfpatch.errors import InstallEnvironmentError

T = TypeVar("T")

# Seconds between two reads of what the processes have written.
_POLL_INTERVAL = 0.05
# Seconds that a process gets to print its stack.
_ANSWER_TIME = 0.5
# Bytes; a disk with less is full.
_LEAST_SPACE = 65536


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, however the process is ended. A full disk is an InstallEnvironmentError."""
    with termination_as_exit():
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="nfpatch-run-")))
        try:
            yield folder
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise full_disk() from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(program: Program, workers: Callable[[], Iterable[int]]) -> Iterator[Launch]:
    """The processes of a program, of which none is left afterwards; `workers` gives the ids of those known then."""
    launch = Launch.start(program)
    try:
        yield launch
    finally:
        launch.end(workers())


def wait_for(launch: Launch, look: Callable[[bool], Optional[T]]) -> T:
    """Calls `look` until it returns something.

    Its argument says whether the first process, or torch's launcher, has ended; that is looked up before `look` reads
    what was written, so that a process that has ended has written all that it will ever write.
    """
    while True:
        found = look(launch.process.poll() is not None)
        if found is not None:
            return found
        time.sleep(_POLL_INTERVAL)


def ask_for_places(pids: Iterable[int]) -> None:
    """Makes processes print their stacks, and returns when they have had the time for it."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(_ANSWER_TIME)


def is_disk_full(folder: Path) -> bool:
    """Whether next to nothing can be written there."""
    return shutil.disk_usage(folder).free < _LEAST_SPACE


def full_disk() -> InstallEnvironmentError:
    """The error for a full temporary folder."""
    return InstallEnvironmentError(
        f"The temporary folder {tempfile.gettempdir()} is full. Free some space, or set TMPDIR to a folder on another "
        "disk."
    )
