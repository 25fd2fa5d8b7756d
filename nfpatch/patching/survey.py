"""What an install needs and has: the state of each patch, with the reason in words. Only looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import Refused
from nfpatch.installs.find import Install, read_file
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of, read_ledger
from nfpatch.installs.transaction import is_interrupted

State = Literal["applied", "applicable", "not-needed", "modified", "unknown-release", "interrupted"]


@dataclass(frozen=True)
class PatchStatus:
    """The state of one patch in one install, with the reason in words."""

    patch: Patch
    state: State
    reason: str

    def to_json(self) -> dict[str, str]:
        """An element of `patches` in the JSON documents."""
        return {"id": self.patch.id, "state": self.state, "file": self.patch.file, "reason": self.reason}


@dataclass(frozen=True)
class Survey:
    """An install as it was found: its ledger, the present bytes of every target file (None: no such file).

    `ledger_problem` says why there is a ledger that cannot be trusted; `ledger` is an empty one then.
    """

    install: Install
    catalog: Catalog
    ledger: Ledger
    contents: Mapping[str, Optional[bytes]]
    interrupted: bool
    ledger_problem: Optional[str] = None

    def status_of(self, patch: Patch) -> PatchStatus:
        """The state of this patch here."""
        state, reason = _state_of(self, patch)
        return PatchStatus(patch, state, reason)

    def carried_by(self, file: str) -> Optional[frozenset[str]]:
        """The patches that the present bytes of the file are known to carry; None for unknown content."""
        content = self.contents[file]
        return None if content is None else self.catalog.patch_set_of(self.install.version, file, hash_of(content))

    @property
    def statuses(self) -> tuple[PatchStatus, ...]:
        """The state of every patch, in catalog order."""
        return tuple(self.status_of(patch) for patch in self.catalog.patches)


def survey(install: Install, catalog: Catalog) -> Survey:
    """Look at an install. Raises Refused or EnvironmentProblem where a file cannot be looked at."""
    interrupted, problem, ledger = is_interrupted(install), None, Ledger(install.version)
    try:
        if not interrupted:
            ledger = read_ledger(install)
    except Refused as error:
        problem = str(error)
    contents = {file: _content_of(install.file(file)) for file in sorted({*catalog.files, *ledger.files})}
    return Survey(install, catalog, ledger, contents, interrupted, problem)


def _content_of(path: Path) -> Optional[bytes]:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def _state_of(found: Survey, patch: Patch) -> tuple[State, str]:
    version, entry = found.install.version, found.ledger.files.get(patch.file)
    content = found.contents[patch.file]
    if found.interrupted:
        return "interrupted", "a killed run left work half done; the next apply or revert heals it"
    if entry is not None and patch.id in entry.patches:
        return _state_with_entry(patch, entry, content)
    if version not in found.catalog.fingerprints and not _is_user_patch(found.catalog, patch):
        newest = found.catalog.releases[-1]
        return "unknown-release", f"this nfpatch knows the releases up to {newest}, not {version}"
    if not _is_needed(found.catalog, patch, version):
        return "not-needed", patch.reason_unaffected(version) or f"no variant of the patch names {version}"
    if content is None:
        return "modified", "the file is missing"
    if entry is not None and entry.original_sha256 != found.catalog.fingerprint(version, patch.file, ()):
        return "modified", "the file was not the released one when nfpatch patched it"
    if entry is not None:
        state, reason = _state_with_entry(patch, entry, content)
        return ("applicable" if state == "applied" else state), reason
    return _state_by_fingerprint(found, patch)


def _state_with_entry(patch: Patch, entry: PatchedFile, content: Optional[bytes]) -> tuple[State, str]:
    """The state of a patch that the ledger says the file carries."""
    if content is None:
        return "modified", "the file is missing"
    sha256 = hash_of(content)
    if sha256 == entry.patched_sha256:
        return "applied", patch.summary
    if sha256 == entry.original_sha256:
        return "applicable", f"{patch.summary} (the original came back over the patch)"
    return "modified", "the file was changed after nfpatch patched it"


def _state_by_fingerprint(found: Survey, patch: Patch) -> tuple[State, str]:
    """The state of a patch in a file that the ledger does not know."""
    carried = found.carried_by(patch.file)
    is_on_record = found.catalog.fingerprint(found.install.version, patch.file, [patch.id]) is not None
    if not is_on_record and not carried:
        return "modified", "no fingerprint of its result is on record, so that nfpatch cannot tell whether it is right"
    if carried is None:
        return "modified", "the file is neither the released one nor one that nfpatch wrote"
    if patch.id in carried:
        return "applied", f"{patch.summary} (patched elsewhere: the original is not kept here)"
    if carried:
        return "modified", "the file carries another patch whose original is not kept here"
    return "applicable", patch.summary


def _is_user_patch(catalog: Catalog, patch: Patch) -> bool:
    """Whether the fingerprints do not speak of this patch at all."""
    return not any(
        patch.id in key.split("+") for files in catalog.fingerprints.values() for key in files.get(patch.file, {})
    )


def _is_needed(catalog: Catalog, patch: Patch, version: str) -> bool:
    """Whether this release has the bug; the fingerprints know without parsing a specifier."""
    if catalog.fingerprint(version, patch.file, [patch.id]) is not None:
        return True
    return patch.codemod_for(version) is not None
