"""The process of a program: it ends with the one that started it, and can say where it is when it hangs."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import NoReturn


def redirect_output(path: str) -> None:
    """Sends standard output and error to a file, C++ libraries included."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)


def end_with_parent() -> None:
    """Makes this process end when the one that started it dies, however it dies, and tell where it is when asked."""
    parent = os.getppid()

    def watch() -> NoReturn:
        while os.getppid() == parent:
            print_stack_when_asked()
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform.startswith("linux"):
        # The thread cannot run while C code holds the interpreter lock, nor in a stopped process. The kernel can.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def print_stack_when_asked(log: str | None = None) -> None:
    """Makes a crash, and SIGUSR1, by which nfpatch asks a process that hangs, print where the process is.

    It goes to the file `log`, or to standard error. To be renewed now and then: whatever Lightning runs, it resets all
    signal handlers afterwards that Python does not know of.
    """
    # the file stays open until the process ends
    descriptor = 2 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    faulthandler.disable()
    faulthandler.enable(descriptor)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.register(signal.SIGUSR1, descriptor, all_threads=False)
