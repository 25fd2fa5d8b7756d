"""The process of a program: it exits with the one that started it, and prints its stack when it hangs."""

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
    """Redirects standard output and error to a file, those of C++ libraries too."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)


def end_with_parent() -> None:
    """Makes this process exit when the one that started it does, however it does, and print its stack on SIGUSR1."""
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
    """Makes the process print its stack when it crashes, and on SIGUSR1, which nfpatch sends if it hangs.

    It goes to the file `log`, or to standard error. To be called again and again: Lightning resets all signal handlers
    that Python does not know of.
    """
    # the file stays open until the process ends
    descriptor = 2 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    faulthandler.disable()
    faulthandler.enable(descriptor)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.register(signal.SIGUSR1, descriptor, all_threads=False)
