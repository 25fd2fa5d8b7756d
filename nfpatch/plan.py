"""What an install needs and has, and what it takes to bring it to another set of patches.

Pure: it reads the install and computes; `transaction` does the writing. One rule carries all of it:

    desired bytes of a file = the original bytes, run through the codemods of its patch set, in catalog order
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional

from nfpatch import record
from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import Refused
from nfpatch.install import DISTRIBUTION, Install, read_file
from nfpatch.ledger import (
    Ledger,
    PatchedFile,
    hash_of,
    ledger_path,
    original_path,
    read_ledger,
    read_original,
)
from nfpatch.transaction import Link, Place, Prune, Remove, Step, Write, is_interrupted

if TYPE_CHECKING:
    from nfpatch.codemod import Codemod

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
    """An install as it was found: its ledger, the present bytes of every target file (None: no such file)."""

    install: Install
    catalog: Catalog
    ledger: Ledger
    contents: Mapping[str, Optional[bytes]]
    interrupted: bool

    def status_of(self, patch: Patch) -> PatchStatus:
        """The state of this patch here."""
        state, reason = _state_of(self, patch)
        return PatchStatus(patch, state, reason)

    @property
    def statuses(self) -> tuple[PatchStatus, ...]:
        """The state of every patch, in catalog order."""
        return tuple(self.status_of(patch) for patch in self.catalog.patches)


@dataclass(frozen=True)
class FileChange:
    """One file on its way to another patch set: the bytes now, the bytes then, and the original that both stem from."""

    file: str
    now: bytes
    then: bytes
    original_sha256: str
    patches: tuple[str, ...]


def survey(install: Install, catalog: Catalog) -> Survey:
    """Look at an install. Raises Refused when its ledger cannot be trusted."""
    interrupted = is_interrupted(install)
    ledger = Ledger(install.version) if interrupted else read_ledger(install)
    contents = {file: _content_of(install.file(file)) for file in sorted({*catalog.files, *ledger.files})}
    return Survey(install, catalog, ledger, contents, interrupted)


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
        if content is not None and hash_of(content) == entry.patched_sha256:
            return "applied", patch.summary
        return "modified", _gone(content) or "the file was changed after nfpatch patched it"
    if version not in found.catalog.fingerprints and not _is_user_patch(found.catalog, patch):
        newest = found.catalog.releases[-1]
        return "unknown-release", f"this nfpatch knows the releases up to {newest}, not {version}"
    if not _is_needed(found.catalog, patch, version):
        return "not-needed", patch.reason_unaffected(version) or f"no variant of the patch names {version}"
    if content is None:
        return "modified", "the file is missing"
    sha256 = hash_of(content)
    if entry is not None:
        if sha256 != entry.patched_sha256:
            return "modified", "the file was changed after nfpatch patched it"
        if entry.original_sha256 != found.catalog.fingerprint(version, patch.file, ()):
            return "modified", "the file was not the released one when nfpatch patched it"
        return "applicable", patch.summary
    carried = found.catalog.patch_set_of(version, patch.file, sha256)
    if carried is None:
        return "modified", "the file is neither the released one nor one that nfpatch wrote"
    if patch.id in carried:
        return "applied", f"{patch.summary} (patched elsewhere: the original is not kept here)"
    if carried:
        return "modified", "the file carries another patch whose original is not kept here"
    return "applicable", patch.summary


def _gone(content: Optional[bytes]) -> Optional[str]:
    return "the file is missing" if content is None else None


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


def changes_to(
    found: Survey, wanted: Mapping[str, frozenset[str]], allow_modified: bool = False
) -> tuple[FileChange, ...]:
    """What must change for each file in `wanted` to carry exactly that set of patches.

    A file that is neither the released one nor nfpatch's own serves as the original only with `allow_modified`.
    Raises Refused, before anything is written, where a file is not what it should be or a result misses its
    fingerprint.
    """
    changes = [_change_to(found, file, ids, allow_modified) for file, ids in sorted(wanted.items())]
    return tuple(change for change in changes if change.now != change.then)


def _change_to(found: Survey, file: str, ids: frozenset[str], allow_modified: bool) -> FileChange:
    install, entry, now = found.install, found.ledger.files.get(file), found.contents[file]
    path = install.file(file)
    reinstall = f"`pip install --force-reinstall --no-deps {DISTRIBUTION}=={install.version}`"
    if now is None:
        raise Refused(f"{path} is missing. Reinstall neuralforecast: {reinstall}.")
    if not _is_inside(path, install.root):
        raise Refused(f"{path} leads out of {install.root} through a symbolic link. nfpatch writes nothing there.")
    if entry is not None:
        if hash_of(now) != entry.patched_sha256:
            raise Refused(
                f"{path} was changed after nfpatch patched it. nfpatch will not overwrite somebody's edits: take them "
                f"out, or reinstall neuralforecast ({reinstall})."
            )
        original, original_sha256 = read_original(install, file, entry.original_sha256), entry.original_sha256
    else:
        original, original_sha256 = now, hash_of(now)
    then = _patched(found, file, original, original_sha256, ids, allow_modified)
    ordered = tuple(patch.id for patch in found.catalog.patches_of(file) if patch.id in ids)
    return FileChange(file, now, then, original_sha256, ordered)


def _patched(
    found: Survey, file: str, original: bytes, original_sha256: str, ids: frozenset[str], allow_modified: bool
) -> bytes:
    """The original run through the codemods, held against the fingerprint."""
    if not ids:
        return original
    version, path = found.install.version, found.install.file(file)
    is_released = original_sha256 == found.catalog.fingerprint(version, file, ())
    expected = found.catalog.fingerprint(version, file, ids)
    if not allow_modified and not (is_released and expected is not None) and file not in found.ledger.files:
        raise Refused(
            f"{path} is not the file of neuralforecast {version}. Restore the released file, or let nfpatch patch it "
            "as it is, if the code in question still matches exactly: `--allow-modified`."
        )
    from nfpatch.codemod import CodemodRefused, check_parses, rewrite

    try:
        result = rewrite(original, _codemods(found, file, ids))
        if not (is_released and expected is not None):
            check_parses(result)
        elif hash_of(result) != expected:
            raise Refused(
                f"Patching {path} gave another result than the recorded one, so it was not written. This is a fault of "
                "nfpatch or of the installed LibCST; please report it with the output of `pip list`."
            )
    except CodemodRefused as error:
        raise Refused(f"{path} is not what the patch expects: {error}. The file stays as it is.") from error
    return result


def _codemods(found: Survey, file: str, ids: frozenset[str]) -> dict[str, Codemod]:
    """The codemods of these patches by patch id, in catalog order. Raises Refused if the catalog lacks one."""
    version = found.install.version
    codemods = {
        patch.id: codemod
        for patch in found.catalog.patches_of(file)
        if patch.id in ids and (codemod := patch.codemod_for(version)) is not None
    }
    for missing in sorted(ids - codemods.keys()):
        raise Refused(
            f"The catalog has no variant of {missing} for neuralforecast {version}; {found.install.file(file)} stays "
            "as it is. A patch of your own is found with --patches DIR."
        )
    return codemods


def _is_inside(path: Path, root: Path) -> bool:
    """Whether the folder of the file, links resolved, lies in the root of the install."""
    folder, resolved_root = path.parent.resolve(), root.resolve()
    return folder == resolved_root or resolved_root in folder.parents


def survey_after(found: Survey, changes: Sequence[FileChange]) -> Survey:
    """The survey of the install once these changes are carried out."""
    contents = {**found.contents, **{change.file: change.then for change in changes}}
    return replace(found, ledger=_ledger_after(found, changes), contents=contents)


def steps_for(found: Survey, changes: Sequence[FileChange]) -> tuple[Step, ...]:
    """The steps that carry out these changes: files, kept originals, compiled files, RECORD and ledger."""
    install, after = found.install, _ledger_after(found, changes)
    steps: list[Step] = []
    for change in changes:
        entry = found.ledger.files.get(change.file)
        if change.patches:
            steps += _steps_to_patched(install, change, entry, after.files[change.file])
        else:
            assert entry is not None, "only a patched file can go back to its original"
            steps += _steps_to_original(install, change.file, entry)
    # last, because a folder that is gone is the one thing that takes room on the disk to take back
    caches = [Prune(install.file(change.file).parent / "__pycache__") for change in changes if not change.patches]
    return (*steps, *_bookkeeping(found, after, changes), *caches)


def _ledger_after(found: Survey, changes: Sequence[FileChange]) -> Ledger:
    before = found.ledger
    files = dict(before.files)
    for change in changes:
        entry = files.pop(change.file, None)
        if change.patches:
            files[change.file] = _entry_after(found.install, change, entry)
    record_sha256 = before.record_sha256
    if not before.files and found.install.record is not None:
        record_sha256 = hash_of(read_file(found.install.record))
    return Ledger(found.install.version, files, record_sha256)


def _entry_after(install: Install, change: FileChange, entry: Optional[PatchedFile]) -> PatchedFile:
    patched = hash_of(change.then)
    if entry is not None:
        return replace(entry, patched_sha256=patched, patches=change.patches)
    path = install.file(change.file)
    return PatchedFile(
        original_sha256=change.original_sha256,
        patched_sha256=patched,
        patches=change.patches,
        link=str(path.readlink()) if path.is_symlink() else None,
        bytecode=tuple(_relative(install, compiled) for compiled in _bytecode_of(path)),
    )


def _steps_to_patched(
    install: Install, change: FileChange, entry: Optional[PatchedFile], after: PatchedFile
) -> list[Step]:
    path = install.file(change.file)
    steps: list[Step] = []
    if entry is None:
        kept = original_path(install, change.file)
        # a kept symbolic link would point elsewhere from here, so its content is kept and its target is written down
        steps.append(Write(kept, change.now, like=path) if after.link is not None else Place(kept, path))
        steps += [Place(original_path(install, name), install.file(name)) for name in after.bytecode]
    steps.append(Write(path, change.then, like=path))
    steps += [Remove(compiled) for compiled in _bytecode_of(path)]
    return steps


def _steps_to_original(install: Install, file: str, entry: PatchedFile) -> list[Step]:
    path, kept = install.file(file), original_path(install, file)
    back: Step = Place(path, kept) if entry.link is None else Link(path, entry.link)
    stale = [compiled for compiled in _bytecode_of(path) if _relative(install, compiled) not in entry.bytecode]
    steps: list[Step] = [back, Remove(kept)]
    steps += [Remove(compiled) for compiled in stale]
    for name in entry.bytecode:
        steps += [Place(install.file(name), original_path(install, name)), Remove(original_path(install, name))]
    return steps


def _bytecode_of(source: Path) -> list[Path]:
    """The compiled files of a module, of every Python version and optimisation level (PEP 3147, PEP 488)."""
    folder = source.parent / "__pycache__"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if name.startswith(f"{source.stem}.") and name.endswith(".pyc"))


def _relative(install: Install, path: Path) -> str:
    return path.relative_to(install.root).as_posix()


def _bookkeeping(found: Survey, after: Ledger, changes: Sequence[FileChange]) -> list[Step]:
    """The steps for RECORD and ledger."""
    install, before = found.install, found.ledger
    if install.record is None:
        return [Write(ledger_path(install), after.to_bytes()) if after.files else Remove(ledger_path(install))]
    patched = {file: content for file, content in found.contents.items() if content is not None}
    patched_after = {**patched, **{change.file: change.then for change in changes}}
    record_name, origin = _relative_record(install), str(install.record)
    present = original = read_file(install.record)
    rows_before: dict[str, Optional[record.Row]] = {}
    if before.files:
        original = read_original(install, record_name, before.record_sha256 or "")
        rows_before = _rows(install, before, read_file(ledger_path(install)), original, patched)
    rows_after = _rows(install, after, after.to_bytes(), original, patched_after) if after.files else {}
    if present == record.edit(original, origin, rows_before):
        desired = record.edit(original, origin, rows_after)
    else:  # somebody else wrote RECORD meanwhile: their rows stay, ours are brought up to date one by one
        released = {row[0]: row for row in record.parse(original, origin)}
        taken_back = {path: released.get(path) for path in rows_before}
        desired = record.edit(present, origin, {**taken_back, **rows_after})
    kept_record = original_path(install, record_name)
    if after.files:
        keep = [] if before.files else [Place(kept_record, install.record)]
        return [*keep, Write(install.record, desired), Write(ledger_path(install), after.to_bytes())]
    back = Place(install.record, kept_record) if desired == original else Write(install.record, desired)
    return [back, Remove(kept_record), Remove(ledger_path(install))]


def _rows(
    install: Install, ledger: Ledger, ledger_bytes: bytes, original_record: bytes, patched: Mapping[str, bytes]
) -> dict[str, Optional[record.Row]]:
    """What RECORD says in this state and did not say before the first patch: a row, or None for one that goes."""
    listed = {row[0] for row in record.parse(original_record, str(install.record))}
    rows: dict[str, Optional[record.Row]] = {}
    kept = {_relative_record(install): original_record}
    for file, entry in ledger.files.items():
        if file in listed:
            rows[file] = record.row_for(file, patched[file])
        rows.update({name: None for name in entry.bytecode if name in listed})
        for name in (file, *entry.bytecode):
            original = original_path(install, name)
            kept[name] = read_file(original if original.exists() else install.file(name))
    own = {ledger_path(install): ledger_bytes, **{original_path(install, name): data for name, data in kept.items()}}
    for path, content in own.items():
        name = path.relative_to(install.site_packages).as_posix()
        rows[name] = record.row_for(name, content)
    return rows


def _relative_record(install: Install) -> str:
    assert install.record is not None
    return install.record.relative_to(install.site_packages).as_posix()


def wanted_by_apply(found: Survey, patches: Sequence[Patch], allow_modified: bool = False) -> dict[str, frozenset[str]]:
    """The patch set of each file that `apply` of these patches is to change; empty when there is nothing to do.

    Raises Refused for the first patch that is needed and cannot be applied, so that apply does all or nothing.
    """
    wanted: dict[str, frozenset[str]] = {}
    for status in map(found.status_of, patches):
        file = status.patch.file
        if status.state in ("applied", "not-needed"):
            continue
        if status.state != "applicable" and not allow_modified:
            raise Refused(_why_not(found, status))
        wanted[file] = wanted.get(file, found.ledger.patches_of(file)) | {status.patch.id}
    return wanted


def wanted_by_revert(found: Survey, patches: Sequence[Patch]) -> dict[str, frozenset[str]]:
    """The patch set of each file that is left when these patches are taken out; without patches, when all are.

    Raises Refused when the file carries a patch whose original is not kept here.
    """
    ids = {patch.id for patch in patches}
    wanted = {
        file: frozenset(entry.patches) - ids if ids else frozenset()
        for file, entry in found.ledger.files.items()
        if not ids or ids & set(entry.patches)
    }
    for status in map(found.status_of, patches or found.catalog.patches):
        if status.state == "applied" and status.patch.file not in found.ledger.files:
            raise Refused(
                f"{found.install.file(status.patch.file)} carries {status.patch.id}, but its original is not kept here "
                "(the ledger is gone, or the file was patched elsewhere). Reinstall neuralforecast to get the released "
                f"file: `pip install --force-reinstall --no-deps {DISTRIBUTION}=={found.install.version}`."
            )
    return wanted


def _why_not(found: Survey, status: PatchStatus) -> str:
    install, patch = found.install, status.patch
    if status.state == "unknown-release":
        return (
            f"neuralforecast {install.version} in {install.site_packages} is unknown: {status.reason}. Upgrade "
            "nfpatch, or let it patch the release if a codemod matches it exactly: `--allow-modified`."
        )
    return (
        f"{install.file(patch.file)} is not as neuralforecast {install.version} was released: {status.reason}. Restore "
        "the released file, or let nfpatch patch it as it is if the code in question still matches exactly: "
        "`--allow-modified`."
    )
