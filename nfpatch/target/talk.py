"""The conversation of nfpatch with `migrate.py` over the standard streams: one record a line, each way.

Both sides use this module, so it is Python 3.7. nfpatch sends a `MigrateSpec`. Imported or NotImported comes back, then
Judged for each file, then AllJudged. Any number of `WriteFiles` may follow, each of which is answered by Written or
Failed for each of its files, and Done.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from .events import WrongRecord, decode, encode


@dataclass(frozen=True)
class SavedFile:
    """A model file; the class that its folder or the user says it holds, and those that its name stands for."""

    path: str
    claimed: Optional[str]
    suggested: Tuple[str, ...]


@dataclass(frozen=True)
class MigrateSpec:
    """What there is to judge.

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
class NewFile:
    """A file, by its number, that is to be written again to this path."""

    file: int
    path: str


@dataclass(frozen=True)
class WriteFiles:
    """The files to write now."""

    files: Tuple[NewFile, ...]


@dataclass(frozen=True)
class Imported:
    """neuralforecast was imported, from this file."""

    file: str


@dataclass(frozen=True)
class NotImported:
    """neuralforecast could not be imported."""

    detail: str


@dataclass(frozen=True)
class Verdict:
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
class Judged:
    """The verdict on a file, by its number."""

    file: int
    verdict: Verdict


@dataclass(frozen=True)
class AllJudged:
    """There are no more verdicts."""


@dataclass(frozen=True)
class Written:
    """A file was written."""

    file: int


@dataclass(frozen=True)
class Failed:
    """A file could not be written; `errno` is that of the system's error, if it was one."""

    file: int
    detail: str
    errno: Optional[int]


@dataclass(frozen=True)
class Done:
    """All files of a request are written, or have failed."""


KINDS = {
    kind.__name__: kind
    for kind in (MigrateSpec, WriteFiles, Imported, NotImported, Judged, AllJudged, Written, Failed, Done)
}


def line_of(record: Any) -> str:
    """The line that holds a record."""
    return json.dumps({"kind": type(record).__name__, "fields": encode(record)}) + "\n"


def record_in(line: str) -> Any:
    """The record in such a line. Raises WrongRecord where it holds none."""
    data = json.loads(line)
    if data.get("kind") not in KINDS:
        raise WrongRecord(f"no record: {data!r}")
    return decode(KINDS[data["kind"]], data["fields"])
