"""What an install needs and has: the state of each patch, with the reason in words. Only looks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import Refused
from nfpatch.installs.find import Install, read_file
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of, read_ledger
from nfpatch.installs.transaction import is_interrupted

State = Literal[
    "applied", "applicable", "not-needed", "opt-in", "modified", "outdated", "unknown-release", "interrupted"
]


# From the best to the worst: a patch is in the state of its worst file.
_FILE_STATES: tuple[State, ...] = ("applied", "applicable", "modified")


class PatchStatus(NamedTuple):
    """The state of one patch in one install, with the reason in words.

    `files` are those that it rewrites here, with the state of each; empty where it is not known to be needed, but for
    one that is opt-in.
    """

    patch: Patch
    state: State
    reason: str
    files: Mapping[str, State] = MappingProxyType({})

    def to_json(self) -> dict[str, object]:
        """An element of `patches` in the JSON documents. Where it rewrites nothing, its files in other releases."""
        return {
            "id": self.patch.id,
            "group": self.patch.group,
            "state": self.state,
            "files": list(self.files) or list(self.patch.files),
            "reason": self.reason,
            "requires": list(self.patch.requires),
        }


class Survey(NamedTuple):
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
        return _status_of(self, patch)

    def carried_by(self, file: str) -> Optional[frozenset[str]]:
        """The patches that the present bytes of the file are known to carry; None for unknown content."""
        content, known = self.contents[file], self.catalog.fingerprints.file(self.install.version, file)
        return None if content is None or known is None else known.carried_by(content)

    @property
    def statuses(self) -> tuple[PatchStatus, ...]:
        """The state of every patch, in catalog order."""
        return tuple(self.status_of(patch) for patch in self.catalog.patches)


def survey(install: Install, catalog: Catalog) -> Survey:
    """Look at an install. Raises Refused or EnvironmentProblem where a file cannot be looked at."""
    interrupted, problem, ledger = is_interrupted(install), None, Ledger(install.version)
    try:
        if not interrupted:
            ledger = _with_present_ids(read_ledger(install), catalog)
    except Refused as error:
        problem = str(error)
    contents = {file: _content_of(install.file(file)) for file in sorted({*catalog.files, *ledger.files})}
    return Survey(install, catalog, ledger, contents, interrupted, problem)


def _content_of(path: Path) -> Optional[bytes]:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def _with_present_ids(ledger: Ledger, catalog: Catalog) -> Ledger:
    """The ledger with the ids that the patches have now: 0.1.0 had other ones."""
    files = {
        file: entry._replace(patches=catalog.ordered(entry.patches)) if entry.patches else entry
        for file, entry in ledger.files.items()
    }
    return ledger._replace(files=files)


def _status_of(found: Survey, patch: Patch) -> PatchStatus:
    catalog, version = found.catalog, found.install.version
    if found.interrupted:
        return PatchStatus(patch, "interrupted", "a killed run left work half done; the next apply or revert heals it")
    patched = {file for file, entry in found.ledger.files.items() if patch.id in entry.patches}
    if not patched and version not in catalog.releases and catalog.is_on_record(patch):
        reason = f"this nfpatch knows the releases up to {catalog.releases[-1]}, not {version}"
        return PatchStatus(patch, "unknown-release", reason)
    files = sorted({*catalog.files_of(patch, version), *patched})
    if not files:
        reason = catalog.reason_unaffected(patch, version) or f"no variant of the patch names {version}"
        return PatchStatus(patch, "not-needed", reason)
    told = {file: _state_in(found, patch, file) for file in files}
    worst = max(files, key=lambda file: _FILE_STATES.index(told[file][0]))
    state, reason = told[worst]
    if any(told[file][0] != state for file in files):
        reason = f"{reason} (in {', '.join(file for file in files if told[file][0] == state)})"
    if patch.opt_in and not patched and state in ("applicable", "modified"):
        state, reason = "opt-in", f"{reason} (applied by its own id only)"
    return PatchStatus(patch, state, reason, {file: told[file][0] for file in files})


def _state_in(found: Survey, patch: Patch, file: str) -> tuple[State, str]:
    """The state of a patch in one of its files."""
    entry, content = found.ledger.files.get(file), found.contents[file]
    if entry is not None and patch.id in entry.patches:
        return _state_with_entry(patch, entry, content)
    if content is None:
        return "modified", "the file is missing"
    if entry is None:
        return _state_by_fingerprint(found, patch, file)
    known = found.catalog.fingerprints.file(found.install.version, file)
    if known is None or entry.original_sha256 != known.sha256:
        return "modified", "the file was not the released one when nfpatch patched it"
    state, reason = _state_with_entry(patch, entry, content)
    return ("applicable" if state == "applied" else state), reason


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


def _state_by_fingerprint(found: Survey, patch: Patch, file: str) -> tuple[State, str]:
    """The state of a patch in a file that the ledger does not know."""
    carried = found.carried_by(file)
    is_on_record = found.catalog.fingerprints.patch(found.install.version, file, patch.id) is not None
    if not is_on_record and not carried:
        return "modified", "no fingerprint of its result is on record, so that nfpatch cannot tell whether it is right"
    if carried is None:
        return "modified", "the file is neither the released one nor one that nfpatch wrote"
    if patch.id in carried:
        return "applied", f"{patch.summary} (patched elsewhere: the original is not kept here)"
    if carried:
        return "modified", "the file carries another patch whose original is not kept here"
    return "applicable", patch.summary
