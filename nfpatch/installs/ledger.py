"""The state that nfpatch keeps of an install: the originals, and the patches that each file has.

It is in the folder `nfpatch/` inside the dist-info folder, so that uninstalling neuralforecast removes it:

    ledger.json                      the patched and the added files with their hashes, and the digests of the patches
    originals/PATH.orig              each original, if possible the same inode (with its mode and times)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from nfpatch import __version__
from nfpatch.errors import RefusedError
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import RUNTIME_FOLDER, Install, module_file
from nfpatch.installs.metadata import DISTRIBUTION
from nfpatch.installs.origin import reinstall_command

# Ledgers with another schema are refused: no version of nfpatch that wrote one was published.
SCHEMA = 3
LEDGER_NAME = "ledger.json"
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class AppliedPatch(NamedTuple):
    """A patch in one file: the digest of its edits, and the runtime modules that they need."""

    edits_sha256: str
    modules: tuple[str, ...] = ()


class PatchedFile(NamedTuple):
    """A patched file.

    `patches` has the ids in catalog order. If the file was a symbolic link, `link` is its target. `bytecode` names the
    compiled files of the original, relative to the root of the install, which are kept as well.
    """

    original_sha256: str
    patched_sha256: str
    patches: Mapping[str, AppliedPatch]
    link: Optional[str] = None
    bytecode: tuple[str, ...] = ()


class Ledger(NamedTuple):
    """The state of an install: the patched files by their path relative to the root of the install.

    `added` has the SHA-256 (hex) of each runtime module by its path: of exactly those modules that the patches need.
    `record_sha256` is the hash of the RECORD that the installer wrote; None if there is none.
    """

    version: str
    files: Mapping[str, PatchedFile] = MappingProxyType({})
    added: Mapping[str, str] = MappingProxyType({})
    record_sha256: Optional[str] = None

    def patches_of(self, file: str) -> frozenset[str]:
        """The ids of the patches in this file."""
        entry = self.files.get(file)
        return frozenset(entry.patches) if entry is not None else frozenset()

    def files_of(self, patch_id: str) -> dict[str, AppliedPatch]:
        """The files that have this patch, with its entry in each."""
        return {file: entry.patches[patch_id] for file, entry in self.files.items() if patch_id in entry.patches}

    def added_by(self, patch_id: str) -> frozenset[str]:
        """The paths of the runtime modules that this patch needs."""
        return frozenset(module_file(name) for applied in self.files_of(patch_id).values() for name in applied.modules)

    @property
    def patch_ids(self) -> frozenset[str]:
        """The ids of all applied patches."""
        return frozenset(patch_id for entry in self.files.values() for patch_id in entry.patches)

    def to_bytes(self) -> bytes:
        """The content of ledger.json."""
        document = {
            "schema": SCHEMA,
            "nfpatch": __version__,
            "neuralforecast": self.version,
            "record_sha256": self.record_sha256,
            "added": dict(sorted(self.added.items())),
            "files": {path: _entry_to_json(entry) for path, entry in sorted(self.files.items())},
        }
        return (json.dumps(document, indent=1) + "\n").encode()


def read_ledger(install: Install) -> Ledger:
    """The ledger of this install; an empty one if nothing is patched.

    Raises RefusedError if it is damaged, has another schema, or is for another release.
    """
    path = ledger_path(install)
    try:
        content = read_file(path)
    except FileNotFoundError:
        return Ledger(install.version)
    try:
        document = json.loads(content)
        if document["schema"] != SCHEMA:
            raise RefusedError(_words_of_other_schema(path, install, document["schema"] > SCHEMA, document["nfpatch"]))
        ledger = Ledger(
            version=_text(document["neuralforecast"]),
            files={name: _patched_file(name, entry) for name, entry in document["files"].items()},
            added={name: _hash(sha256) for name, sha256 in document["added"].items()},
            record_sha256=None if document["record_sha256"] is None else _hash(document["record_sha256"]),
        )
        _check_added(ledger)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RefusedError(
            f"{path} is damaged, so nfpatch does not know what it changed. Reinstall neuralforecast to restore the "
            f"released files: {reinstall_command(install)}."
        ) from error
    if ledger.version != install.version:
        raise RefusedError(
            f"{path} is for neuralforecast {ledger.version}, but {install.version} is installed. Reinstall it to start "
            f"clean: {reinstall_command(install)}."
        )
    return ledger


def ledger_path(install: Install) -> Path:
    """The path of the ledger of this install."""
    return install.home / LEDGER_NAME


def original_path(install: Install, file: str) -> Path:
    """The path where the original of a file is kept. Its suffix hides it from imports and bytecode compilers."""
    return install.home / f"originals/{file}.orig"


def read_original(install: Install, file: str, sha256: str) -> bytes:
    """The kept original of a file. Raises RefusedError if it is missing or was changed."""
    path = original_path(install, file)
    try:
        content = read_file(path)
    except FileNotFoundError as error:
        raise _lost_original(path, install, "is missing") from error
    if hash_of(content) != sha256:
        raise _lost_original(path, install, "was changed")
    return content


@lru_cache(maxsize=256)
def hash_of(content: bytes) -> str:
    """SHA-256 (hex); cached, because the states of all patches of a file need that of the same content."""
    return hashlib.sha256(content).hexdigest()


def _entry_to_json(entry: PatchedFile) -> dict[str, Any]:
    patches = {patch_id: applied._asdict() for patch_id, applied in entry.patches.items()}
    return {**entry._asdict(), "patches": patches}


def _patched_file(file: str, entry: dict[str, Any]) -> PatchedFile:
    """An entry of the ledger. Raises ValueError if nfpatch cannot have written it."""
    bytecode = tuple(_text(name) for name in entry["bytecode"])
    path = PurePosixPath(file)
    caches, folder = path.parent / "__pycache__", PurePosixPath(RUNTIME_FOLDER)
    if ".." in path.parts or path.parts[0] != DISTRIBUTION:
        raise ValueError(f"{file} is no file of the package")
    if folder in (path, *path.parents):
        raise ValueError(f"{file} is no file of neuralforecast")
    if any(PurePosixPath(name).parent != caches for name in bytecode):
        raise ValueError(f"{bytecode} are no compiled files of {file}")
    if not entry["patches"]:
        raise ValueError(f"{file} has no patch")
    return PatchedFile(
        original_sha256=_hash(entry["original_sha256"]),
        patched_sha256=_hash(entry["patched_sha256"]),
        patches={patch_id: _applied_patch(applied) for patch_id, applied in entry["patches"].items()},
        link=None if entry["link"] is None else _text(entry["link"]),
        bytecode=bytecode,
    )


def _applied_patch(applied: dict[str, Any]) -> AppliedPatch:
    modules = applied["modules"]
    if not isinstance(modules, list) or not all(isinstance(name, str) and name.isidentifier() for name in modules):
        raise ValueError(f"{modules} are no runtime modules")
    return AppliedPatch(_hash(applied["edits_sha256"]), tuple(modules))


def _check_added(ledger: Ledger) -> None:
    """Raise ValueError unless the added files are exactly the runtime modules that the patches need."""
    needed = {path for patch_id in ledger.patch_ids for path in ledger.added_by(patch_id)}
    for path in sorted(needed ^ ledger.added.keys()):
        raise ValueError(f"{path} is {'not ' if path in needed else ''}listed as an added file")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _hash(value: object) -> str:
    if _SHA256.fullmatch(_text(value)) is None:
        raise ValueError(f"{value!r} is no SHA-256")
    return _text(value)


def _words_of_other_schema(path: Path, install: Install, is_newer: bool, version: object) -> str:
    if is_newer:
        return (
            f"{path} was written by nfpatch {version}, which is newer than this nfpatch ({__version__}). "
            "Upgrade nfpatch: `pip install --upgrade nfpatch`."
        )
    return (
        f"{path} was written by nfpatch {version}, whose ledgers this nfpatch ({__version__}) cannot read. Reinstall "
        f"neuralforecast to restore the released files, then apply again: {reinstall_command(install)}."
    )


def _lost_original(path: Path, install: Install, what: str) -> RefusedError:
    return RefusedError(
        f"The original {path} {what}, so nfpatch cannot restore it. Reinstall neuralforecast to restore the released "
        f"file: {reinstall_command(install)}."
    )
