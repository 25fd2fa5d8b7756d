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
    """A model file, its class according to the user or its folder, and the classes that its name may stand for."""

    path: str
    claimed: Optional[str]
    suggested: Tuple[str, ...]


@dataclass(frozen=True)
class MigrateSpec:
    """The files to check, and the sources that they must fit.

    `unused` has, by class, the fnmatch patterns of the parameters that patches remove. `installed` and `patched` (with
    the patches that remove parameters) are folders to put first on sys.path: None if the install is on the path anyway,
    or if there is no patched source. With `trust`, pickles may execute code.
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
    """The result for a file.

    `state` is "already-fits", "misfit" if these keys must be dropped and added, or "refused". Then `detail` is the
    reason, as the rest of a sentence that begins with the name of the file, and `cause` is "content", "environment", or
    "code" for a pickle that would execute some.
    """

    state: str
    model: Optional[str] = None
    dropped: Tuple[str, ...] = ()
    added: Tuple[str, ...] = ()
    detail: str = ""
    cause: Optional[str] = None


@dataclass(frozen=True)
class FilesChecked:
    """The results for all files, in their order."""

    checks: Tuple[FileCheck, ...]


@dataclass(frozen=True)
class WriteFiles:
    """The numbers of the files to rewrite, each as `new-NUMBER` in this folder."""

    files: Tuple[int, ...]
    folder: str


@dataclass(frozen=True)
class Written:
    """The number of the first file that could not be written, None if all were, and its error."""

    failed: Optional[int] = None
    detail: str = ""
    errno: Optional[int] = None


def line_of(record: Any) -> str:
    """The record as a line of JSON."""
    return json.dumps(encode(record)) + "\n"


def record_in(line: str, kind: Type[T]) -> T:
    """The record of this kind in a line. Raises WrongRecord if it holds another."""
    return decode(kind, json.loads(line))
