"""What nfpatch keeps of an install: the originals, and which patches each file carries. Nothing else is state.

It lies in the folder `nfpatch/` inside the dist-info folder, so that uninstalling neuralforecast takes it away:

    ledger.json                      the patched files, with the hashes before and after
    originals/PATH.orig              each original, as far as possible the very same inode (mode, times and all)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from nfpatch import __version__
from nfpatch.errors import Refused
from nfpatch.installs.find import DISTRIBUTION, Install, read_file, reinstall_command

# 2: a patch may be in several files; the ids of some patches changed.
SCHEMA = 2
LEDGER_NAME = "ledger.json"


class PatchedFile(NamedTuple):
    """One file that carries patches.

    `patches` are ids in catalog order. `link` is the target of the symbolic link that stood in the file's place.
    `bytecode` names the compiled files of the original, relative to the root of the install, which are kept as well.
    """

    original_sha256: str
    patched_sha256: str
    patches: tuple[str, ...]
    link: Optional[str] = None
    bytecode: tuple[str, ...] = ()


class Ledger(NamedTuple):
    """The state of an install: the patched files by their path relative to the root of the install.

    `record_sha256` is the hash of the RECORD as the installer wrote it; None where there is none.
    """

    version: str
    files: Mapping[str, PatchedFile] = MappingProxyType({})
    record_sha256: Optional[str] = None

    def patches_of(self, file: str) -> frozenset[str]:
        """The ids of the patches that this file carries."""
        entry = self.files.get(file)
        return frozenset(entry.patches) if entry is not None else frozenset()

    def to_bytes(self) -> bytes:
        """The ledger as it stands on disk."""
        document = {
            "schema": SCHEMA,
            "nfpatch": __version__,
            "neuralforecast": self.version,
            "record_sha256": self.record_sha256,
            "files": {path: entry._asdict() for path, entry in sorted(self.files.items())},
        }
        return (json.dumps(document, indent=1) + "\n").encode()


def read_ledger(install: Install) -> Ledger:
    """The ledger of this install, an empty one if nothing is patched.

    Raises Refused when it is damaged, from a newer nfpatch, or of another release.
    """
    path = ledger_path(install)
    try:
        content = read_file(path)
    except FileNotFoundError:
        return Ledger(install.version)
    try:
        document = json.loads(content)
        if document["schema"] > SCHEMA:
            raise Refused(
                f"{path} was written by nfpatch {document['nfpatch']}, which is newer than this one ({__version__}). "
                "Upgrade nfpatch: `pip install --upgrade nfpatch`."
            )
        ledger = Ledger(
            version=str(document["neuralforecast"]),
            files={name: _patched_file(name, entry) for name, entry in document["files"].items()},
            record_sha256=document["record_sha256"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Refused(
            f"{path} is damaged, so nfpatch no longer knows what it changed. Reinstall neuralforecast to get the "
            f"released files: {reinstall_command(install)}."
        ) from error
    if ledger.version != install.version:
        raise Refused(
            f"{path} speaks of neuralforecast {ledger.version}, but {install.version} is installed. Reinstall it to "
            f"start clean: {reinstall_command(install)}."
        )
    return ledger


def ledger_path(install: Install) -> Path:
    """Where the ledger of this install lies."""
    return install.home / LEDGER_NAME


def original_path(install: Install, file: str) -> Path:
    """Where the original of a file is kept. The suffix keeps importers and compilers of bytecode away from it."""
    return install.home.joinpath("originals", *(file + ".orig").split("/"))


def read_original(install: Install, file: str, sha256: str) -> bytes:
    """The kept original of a file. Raises Refused when it is gone or is no longer what was kept."""
    path = original_path(install, file)
    try:
        content = read_file(path)
    except FileNotFoundError as error:
        raise _lost_original(path, install, "is gone") from error
    if hash_of(content) != sha256:
        raise _lost_original(path, install, "is not what nfpatch kept there")
    return content


def hash_of(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def _patched_file(file: str, entry: dict[str, Any]) -> PatchedFile:
    """An entry of the ledger. Raises ValueError where it names what no ledger of nfpatch's could name."""
    bytecode = tuple(entry["bytecode"])
    caches = PurePosixPath(file).parent / "__pycache__"
    if ".." in PurePosixPath(file).parts or PurePosixPath(file).parts[0] != DISTRIBUTION:
        raise ValueError(f"{file} is no file of the package")
    if any(PurePosixPath(name).parent != caches for name in bytecode):
        raise ValueError(f"{bytecode} are no compiled files of {file}")
    if not (isinstance(entry["patches"], list) and all(isinstance(name, str) for name in entry["patches"])):
        raise ValueError(f"{entry['patches']} are no ids of patches")
    return PatchedFile(
        original_sha256=entry["original_sha256"],
        patched_sha256=entry["patched_sha256"],
        patches=tuple(entry["patches"]),
        link=entry["link"],
        bytecode=bytecode,
    )


def _lost_original(path: Path, install: Install, what: str) -> Refused:
    return Refused(
        f"The original {path} {what}, so nfpatch cannot restore it. Reinstall neuralforecast to get the released file: "
        f"{reinstall_command(install)}."
    )
