"""Which files a process writes, as Python's own audit events tell (PEP 578). What C or Rust opens is not among them."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..events import FileChanged
from .own_code import place_in_own_code
from .recorder import EventRecorder

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# By event: where the path stands among its arguments, and what becomes of it
CHANGING = {"os.rename": (1, "replaced"), "os.remove": (0, "removed"), "shutil.rmtree": (0, "removed")}
# Where processes talk with the system and not with each other, and what Python compiles
NO_FILES = ("/dev/", "/proc/", "/sys/")


def watch_files(recorder: EventRecorder) -> None:
    """Records each file that this process, and what it forks, writes or removes. Python 3.7 has no such events."""
    seen: set[tuple[int, str, str]] = set()
    own = os.path.abspath(recorder.spec.out) + os.sep

    def look(event: str, arguments: tuple[Any, ...]) -> None:
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
        sys.addaudithook(look)
