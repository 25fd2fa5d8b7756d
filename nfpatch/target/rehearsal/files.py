"""Records the files that a process writes, by Python's audit events (PEP 578), which C and Rust do not raise."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..events import FileChanged
from .own_code import place_in_own_code
from .recorder import EventRecorder

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# By event: the index of the path among its arguments, and what happens to it
CHANGING = {"os.rename": (1, "replaced"), "os.remove": (0, "removed"), "shutil.rmtree": (0, "removed")}
# Folders of the system, in which ranks share no files
NO_FILES = ("/dev/", "/proc/", "/sys/")


def watch_files(recorder: EventRecorder) -> None:
    """Records each file that this process or a fork of it writes or removes. Python 3.7 has no audit events."""
    seen: set[tuple[int, str, str]] = set()
    own = os.path.abspath(recorder.spec.out) + os.sep

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        how = "opened"
        if event == "open":
            path, mode, flags = arguments
            if not (set("wxa+").intersection(mode) if isinstance(mode, str) else (flags or 0) & WRITING):
                return
        elif event in CHANGING:
            place, how = CHANGING[event]
            path = arguments[place]
        else:
            return
        if recorder.is_reference_run or not isinstance(path, (str, bytes)):
            return
        changed = os.path.abspath(os.fsdecode(path))
        number, _ = recorder.place()
        if changed.startswith((own, *NO_FILES)) or "__pycache__" in changed or (number, changed, how) in seen:
            return
        seen.add((number, changed, how))
        recorder.write(FileChanged(number, changed, how, place_in_own_code()))

    if hasattr(sys, "addaudithook"):
        sys.addaudithook(record)
