"""The records that nfpatch and `migrate.py` exchange over the standard streams, each as one line of JSON.

Both sides use this module, so it is Python 3.7. nfpatch sends a `MigrateSpec`, and receives `Imported` and
`FilesChecked`. For each `WriteFiles` that it sends, it receives `Written`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple, Type, TypeVar

from .events import decode, encode

T = TypeVar("T")


@dataclass(frozen=True)
class SavedFile:
    """A model file; the class that its folder or the user says it holds, and those that its name stands for."""

    path: str
    claimed: Optional[str]
    suggested: Tuple[str, ...]


@dataclass(frozen=True)
class MigrateSpec:
    """What there is to check.

    `unused` has, by class, the patterns (fnmatch) of the parameters that patches remove. `installed` and `patched` (the
    installed source with all the patches that it lacks) are folders to put first on sys.path: None for neuralforecast
    as it is found, and where there is no patched source. With `trust` a pickle may run the code that it names.
    """

    files: Tuple[SavedFile, ...]
    unused: Dict[str, Tuple[str, ...]]
    installed: Optional[str]
    patched: Optional[str]
    trust: bool


@dataclass(frozen=True)
class Imported:
    """The file from which neuralforecast was imported, or the error of its import; the process exits after an error."""

    file: Optional[str]
    error: str = ""


@dataclass(frozen=True)
class FileCheck:
    """What becomes of a file.

    `state` is "already-fits", "misfit", which dropping and adding these keys mends, or "refused": `detail` says why, in
    words that follow the name of the file, and `cause` is "content", "code" for a pickle that wants to run some, or
    "environment".
    """

    state: str
    model: Optional[str] = None
    dropped: Tuple[str, ...] = ()
    added: Tuple[str, ...] = ()
    detail: str = ""
    cause: Optional[str] = None


@dataclass(frozen=True)
class FilesChecked:
    """The checks on all files, in their order."""

    checks: Tuple[FileCheck, ...]


@dataclass(frozen=True)
class WriteFiles:
    """The files, by their numbers, to rewrite as `new-NUMBER` in this folder."""

    files: Tuple[int, ...]
    folder: str


@dataclass(frozen=True)
class Written:
    """All files were written, or the first that `failed`, and why; `errno` is that of the system's error, if any."""

    failed: Optional[int] = None
    detail: str = ""
    errno: Optional[int] = None


def line_of(record: Any) -> str:
    """The line that holds a record."""
    return json.dumps(encode(record)) + "\n"


def record_in(line: str, kind: Type[T]) -> T:
    """The record of this kind in a line. Raises WrongRecord if it holds another."""
    return decode(kind, json.loads(line))
