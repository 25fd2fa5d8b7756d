"""The file into which a process writes its events, one per line."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from .events import Entry


class EventFile:
    """A file of events, which `rank` is of unless one says otherwise."""

    def __init__(self, path: str, rank: int | None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._rank = rank

    def write(self, event: Any, rank: int | None = None) -> Entry:
        """Writes one event, safe from whatever happens to the process afterwards, and returns it as written."""
        entry = Entry(self._rank if rank is None else rank, os.getpid(), time.time(), event)
        self.append(entry)
        return entry

    def append(self, entry: Entry) -> None:
        """Writes what is an entry already, as one of another file."""
        line = (json.dumps(entry.to_json()) + "\n").encode()
        while line:  # a disk that fills up takes the first part of a line before it fails
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)
