"""The conversation of `migrate.py` with nfpatch: JSON objects, one per line, through the standard streams."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Talk:
    """The lines that come in and go out. What libraries print goes to standard error."""

    def __init__(self) -> None:
        self._incoming = sys.stdin
        self._outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def receive(self) -> Any:
        """The next line that came in; None at the end."""
        line = self._incoming.readline()
        return json.loads(line) if line else None

    def send(self, event: str, **fields: Any) -> None:
        """Sends a line out."""
        self._outgoing.write(json.dumps(dict(fields, event=event)) + "\n")
        self._outgoing.flush()
