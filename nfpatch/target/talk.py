"""The talk with nfpatch: JSON objects, one a line, into a file or through the standard streams."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Events:
    """The file of a rank's events."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: str, **fields: Any) -> None:
        """Writes one event, safe from whatever happens to the process afterwards."""
        line = (json.dumps(dict(fields, event=event)) + "\n").encode()
        while line:  # a disk that fills up takes the first part of a line before it fails
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)


class Talk:
    """The lines that come in and go out. What libraries print goes to standard error."""

    def __init__(self) -> None:
        self._incoming = sys.stdin
        self._outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def hear(self) -> Any:
        """The next line that came in; None at the end."""
        line = self._incoming.readline()
        return json.loads(line) if line else None

    def say(self, event: str, **fields: Any) -> None:
        """Sends a line out."""
        self._outgoing.write(json.dumps(dict(fields, event=event)) + "\n")
        self._outgoing.flush()
