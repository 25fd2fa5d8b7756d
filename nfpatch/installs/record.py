"""The `RECORD` of a dist-info folder, edited row by row so that all other rows keep their bytes.

Format: the PyPA specification "Recording installed projects" (PEP 376, PEP 627): CSV rows of path, `algorithm=digest`
(urlsafe base64 without padding) and size in bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Optional

from nfpatch.errors import InstallEnvironmentError

Row = tuple[str, str, str]


def row_for(path: str, content: bytes) -> Row:
    """The row for a file with this content at this POSIX path, relative to site-packages."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return (path, f"sha256={digest}", str(len(content)))


@lru_cache(maxsize=4)
def parse(record: bytes, origin: str) -> tuple[Row, ...]:
    """The rows of a RECORD; `origin` is its path, for errors. Raises InstallEnvironmentError if a line is malformed."""
    try:
        lines = _lines(record)
    except UnicodeDecodeError as error:
        raise _malformed(origin, f"is not UTF-8 ({error.reason} at byte {error.start})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            fields = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise _malformed(origin, f"has a malformed line {number}: {error}") from error
        if len(fields) != 3 or not fields[0]:
            raise _malformed(origin, f"has a malformed line {number}: {line.strip()!r}")
        rows.append((fields[0], fields[1], fields[2]))
    if not rows:
        raise _malformed(origin, "is empty")
    return tuple(rows)


def edit(record: bytes, origin: str, changes: Mapping[str, Optional[Row]]) -> bytes:
    """The RECORD after the row of each path in `changes` is replaced, removed (None) or added at the end.

    Raises InstallEnvironmentError as `parse` does.
    """
    rows = parse(record, origin)
    lines = _lines(record)
    ending = "\r\n" if lines[0].endswith("\r\n") else "\n"
    edited = []
    for (path, _, _), line in zip(rows, lines):
        if path not in changes:
            edited.append(line)
        elif (row := changes[path]) is not None:
            edited.append(_render(row, ending))
    present = {path for path, _, _ in rows}
    added = [_render(row, ending) for path, row in changes.items() if row is not None and path not in present]
    if added and edited and not edited[-1].endswith("\n"):
        edited[-1] += ending
    return "".join([*edited, *added]).encode()


def _lines(record: bytes) -> list[str]:
    """The lines with their endings. Unlike `str.splitlines`, StringIO splits at no other character of a file name."""
    return io.StringIO(record.decode()).readlines()


def _render(row: Row, ending: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator=ending).writerow(row)
    return line.getvalue()


def _malformed(origin: str, what: str) -> InstallEnvironmentError:
    return InstallEnvironmentError(
        f"{origin} {what}. Reinstall neuralforecast to restore it: "
        "`pip install --force-reinstall --no-deps neuralforecast==VERSION`."
    )
