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
    """Makes this process end when the one that started it dies, however it dies."""
    parent = os.getppid()

    def watch() -> NoReturn:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform.startswith("linux"):
        # The thread cannot run while C code holds the interpreter lock, nor in a stopped process. The kernel can.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def print_stack_when_asked() -> None:
    """Makes a crash, and SIGUSR1, by which nfpatch asks a process that hangs, print where the process is.

    To be renewed for every case: after a fit, Lightning resets all signal handlers that Python does not know of.
    """
    faulthandler.disable()
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.register(signal.SIGUSR1, all_threads=False)
