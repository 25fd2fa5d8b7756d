"""What it takes to bring an install to another set of patches.

Pure: it reads the install and computes; `transaction` does the writing. One rule carries all of it:

    desired bytes of a file = the original bytes with the edits of its patches
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple, Optional

from nfpatch.catalog import Patch
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.errors import Refused
from nfpatch.installs import record
from nfpatch.installs.find import Install, read_file, reinstall_command
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of, ledger_path, original_path, read_original
from nfpatch.installs.transaction import Link, Place, Prune, Remove, Step, Write
from nfpatch.patching.survey import PatchStatus, Survey


class FileChange(NamedTuple):
    """One file on its way to another patch set: the bytes now (None: it is missing), the bytes then, the original.

    `saves` tells that the bytes now are somebody's edits, of which a copy is to be kept.
    """

    file: str
    now: Optional[bytes]
    then: bytes
    original_sha256: str
    patches: tuple[str, ...]
    saves: bool = False


def changes_to(
    found: Survey, wanted: Mapping[str, frozenset[str]], allow_modified: bool = False, force: bool = False
) -> tuple[FileChange, ...]:
    """What must change for each file in `wanted` to carry exactly that set of patches.

    A file that is neither the released one nor nfpatch's own serves as the original only with `allow_modified`; one
    that was edited after nfpatch patched it is overwritten, and a copy kept, only with `force`. Raises Refused, before
    anything is written, where a file is not what it should be or a result misses its fingerprint.
    """
    changes = [_change_to(found, file, ids, allow_modified, force) for file, ids in sorted(wanted.items())]
    return tuple(c for c in changes if c.now != c.then or frozenset(c.patches) != found.ledger.patches_of(c.file))


def original_with(found: Survey, ids: frozenset[str], allow_modified: bool = False) -> dict[str, bytes]:
    """The files, by path, that these patches rewrite: the originals with nothing but them. Raises as `changes_to`."""
    catalog, version = found.catalog, found.install.version
    by_file: dict[str, set[str]] = {}
    for patch in (patch for patch in catalog.patches if patch.id in ids):
        for file in catalog.files_of(patch, version):
            by_file.setdefault(file, set()).add(patch.id)
    return {
        file: _change_to(found, file, frozenset(own), allow_modified, force=True).then for file, own in by_file.items()
    }


def _change_to(found: Survey, file: str, ids: frozenset[str], allow_modified: bool, force: bool) -> FileChange:
    install, entry, now = found.install, found.ledger.files.get(file), found.contents[file]
    path = install.file(file)
    saves = False
    if entry is None:
        if now is None:
            raise Refused(f"{path} is missing. Reinstall neuralforecast: {reinstall_command(install)}.")
        original, original_sha256 = now, hash_of(now)
    else:
        original, original_sha256 = read_original(install, file, entry.original_sha256), entry.original_sha256
        known = now is not None and hash_of(now) in (entry.patched_sha256, original_sha256)
        if not known and not force:
            raise Refused(
                f"{path} was {'removed' if now is None else 'changed'} after nfpatch patched it. nfpatch does not "
                "overwrite what somebody else did. Take it back, or let nfpatch keep a copy beside the file and go on: "
                "`--force`."
            )
        saves = not known and now is not None
    then = _patched(found, file, original, original_sha256, ids, allow_modified)
    return FileChange(file, now, then, original_sha256, found.catalog.ordered(ids), saves)


def _patched(
    found: Survey, file: str, original: bytes, original_sha256: str, ids: frozenset[str], allow_modified: bool
) -> bytes:
    """The original with the edits of these patches, each held against the record where that knows it."""
    if not ids:
        return original
    version, path = found.install.version, found.install.file(file)
    known = found.catalog.fingerprints.file(version, file)
    recorded = known.patches if known is not None and known.sha256 == original_sha256 else {}
    if not (allow_modified or ids <= recorded.keys() or file in found.ledger.files):
        raise Refused(
            f"{path} is not the file of neuralforecast {version}, or the result is not on record. Restore the released "
            "file, or let nfpatch patch it as it is, if the code in question still matches exactly: `--allow-modified`."
        )
    from nfpatch.patching.edits import Edit, digest_of, spliced
    from nfpatch.patching.rewriting import check_parses, edits_of
    from nfpatch.patching.source import Source

    source, edits = Source(original), dict[str, tuple[Edit, ...]]()
    try:
        for patch_id, rewrite in _rewrites(found, file, ids).items():
            try:
                edits[patch_id] = edits_of(rewrite, source, vouched=patch_id in recorded)
            except CodemodRefused as error:
                raise CodemodRefused(f"for {patch_id}, {error}") from error
            if patch_id in recorded and digest_of(edits[patch_id]) != recorded[patch_id].sha256:
                raise Refused(
                    f"{patch_id} came to another result than the recorded one in {path}, so it was not written. This "
                    "is a fault of nfpatch or of the installed LibCST; please report it with the output of `pip list`."
                )
        result = spliced(original, edits)
        if not ids <= recorded.keys():
            check_parses(result)
    except CodemodRefused as error:
        raise Refused(f"{path} is not what the patch expects: {error}. The file stays as it is.") from error
    return result


def _rewrites(found: Survey, file: str, ids: frozenset[str]) -> dict[str, Rewrite]:
    """The codemods of these patches in a file by patch id. Raises Refused if the catalog lacks one."""
    version = found.install.version
    rewrites = {
        patch.id: rewrite
        for patch in found.catalog.patches
        if patch.id in ids and (rewrite := found.catalog.rewrites_for(patch, version).get(file)) is not None
    }
    for missing in sorted(ids - rewrites.keys()):
        raise Refused(
            f"The catalog has no variant of {missing} for neuralforecast {version}; {found.install.file(file)} stays "
            "as it is. A patch of your own is found with --patches DIR."
        )
    return rewrites


def survey_after(found: Survey, changes: Sequence[FileChange]) -> Survey:
    """The survey of the install once these changes are carried out."""
    contents = {**found.contents, **{change.file: change.then for change in changes}}
    return found._replace(ledger=_ledger_after(found, changes), contents=contents)


def steps_for(found: Survey, changes: Sequence[FileChange]) -> tuple[Step, ...]:
    """The steps that carry out these changes: files, kept originals, compiled files, RECORD and ledger."""
    install, after = found.install, _ledger_after(found, changes)
    steps: list[Step] = []
    for change in changes:
        entry = found.ledger.files.get(change.file)
        if change.patches:
            steps += _saving(install, change) + _steps_to_patched(install, change, entry, after.files[change.file])
        else:
            assert entry is not None  # only a patched file can go back to its original
            steps += _saving(install, change) + _steps_to_original(install, change, entry)
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
    # in the order of the files, so that ledger and RECORD tell nothing of the way to this set
    return Ledger(found.install.version, dict(sorted(files.items())), record_sha256)


def _entry_after(install: Install, change: FileChange, entry: Optional[PatchedFile]) -> PatchedFile:
    patched = hash_of(change.then)
    if entry is not None:
        return entry._replace(patched_sha256=patched, patches=change.patches)
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
        assert change.now is not None  # a missing file has no original to keep
        steps.append(Write(kept, change.now, like=path) if after.link is not None else Place(kept, path))
        steps += [Place(original_path(install, name), install.file(name)) for name in after.bytecode]
    steps.append(Write(path, change.then, like=path))
    steps += [Remove(compiled) for compiled in _bytecode_of(path)]
    return steps


def saved_path(install: Install, change: FileChange) -> Path:
    """Where the copy of somebody's edits goes: beside the file, under the first name that is free."""
    path = install.file(change.file)
    names = (f"{path.name}.nfpatch-saved{'' if number == 1 else f'-{number}'}" for number in count(1))
    return next(saved for name in names if not os.path.lexists(saved := path.with_name(name)))


def _saving(install: Install, change: FileChange) -> list[Step]:
    return [Place(saved_path(install, change), install.file(change.file))] if change.saves else []


def _steps_to_original(install: Install, change: FileChange, entry: PatchedFile) -> list[Step]:
    path, kept = install.file(change.file), original_path(install, change.file)
    back: Step = Place(path, kept) if entry.link is None else Link(path, entry.link)
    stale = [compiled for compiled in _bytecode_of(path) if _relative(install, compiled) not in entry.bytecode]
    # where somebody put the original back already, that file stays
    steps: list[Step] = [Remove(kept)] if change.now == change.then else [back, Remove(kept)]
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
    of_this_module = re.compile(rf"{re.escape(source.stem)}\.[\w-]+(\.opt-\w+)?\.pyc", re.ASCII)
    return sorted(folder / name for name in names if of_this_module.fullmatch(name))


def _relative(install: Install, path: Path) -> str:
    return path.relative_to(install.root).as_posix()


def _bookkeeping(found: Survey, after: Ledger, changes: Sequence[FileChange]) -> list[Step]:
    """The steps for RECORD and ledger."""
    install, before = found.install, found.ledger
    if install.record is None:
        return [Write(ledger_path(install), after.to_bytes()) if after.files else Remove(ledger_path(install))]
    record_name, origin = _relative_record(install), str(install.record)
    present = original = read_file(install.record)
    # somebody's edit of a patched file is none of RECORD: the row that stands there is still what nfpatch wrote
    standing = {row[0]: row for row in record.parse(present, origin)}
    written = {**standing, **{change.file: record.row_for(change.file, change.then) for change in changes}}
    rows_before: dict[str, Optional[record.Row]] = {}
    if before.files:
        original = read_original(install, record_name, before.record_sha256 or "")
        rows_before = _rows(install, before, read_file(ledger_path(install)), original, standing)
    rows_after = _rows(install, after, after.to_bytes(), original, written) if after.files else {}
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
    install: Install, ledger: Ledger, ledger_bytes: bytes, original_record: bytes, patched: Mapping[str, record.Row]
) -> dict[str, Optional[record.Row]]:
    """What RECORD says in this state and did not say before the first patch: a row, or None for one that goes.

    `patched` are the rows of the patched files.
    """
    listed = {row[0] for row in record.parse(original_record, str(install.record))}
    rows: dict[str, Optional[record.Row]] = {}
    kept = {_relative_record(install): original_record}
    for file, entry in ledger.files.items():
        if file in listed:
            rows[file] = patched.get(file)
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

    In a release that is not known, `allow_modified` leaves those patches out that do not claim it. Raises Refused for
    the first patch that is needed and cannot be applied, so that apply does all or nothing.
    """
    if found.ledger_problem is not None:
        raise Refused(found.ledger_problem)
    wanted: dict[str, frozenset[str]] = {}
    unclaimed = []
    for status in map(found.status_of, patches):
        if status.state == "applied" or (status.state == "not-needed" and not status.files):
            continue
        files = dict(status.files)
        if status.state == "unknown-release":
            files = dict.fromkeys(found.catalog.files_of(status.patch, found.install.version), status.state)
        if not files:
            unclaimed.append(status)
        for file, state in files.items():
            # what was changed after nfpatch patched it is judged where the change is computed, because of --force
            if state not in ("applied", "applicable") and not allow_modified and file not in found.ledger.files:
                raise Refused(_why_not(found, status, file))
            wanted[file] = wanted.get(file, found.ledger.patches_of(file)) | {status.patch.id}
    if unclaimed and (len(unclaimed) == len(patches) or not allow_modified):
        raise Refused(_why_not(found, unclaimed[0], unclaimed[0].patch.files[0]))
    return wanted


def wanted_by_revert(found: Survey, patches: Sequence[Patch]) -> dict[str, frozenset[str]]:
    """The patch set of each file that is left when these patches are taken out; without patches, when all are.

    Raises Refused when the file carries a patch whose original is not kept here.
    """
    if found.ledger_problem is not None:
        raise Refused(found.ledger_problem)
    ids = {patch.id for patch in patches}
    wanted = {
        file: frozenset(entry.patches) - ids if ids else frozenset()
        for file, entry in found.ledger.files.items()
        if not ids or ids & set(entry.patches)
    }
    named = {patch.id for patch in patches or found.catalog.patches}
    for file in sorted(found.contents.keys() - found.ledger.files.keys()):
        for patch_id in sorted(named & (found.carried_by(file) or frozenset())):
            raise Refused(
                f"{found.install.file(file)} carries {patch_id}, but its original is not kept here "
                "(the ledger is gone, or the file was patched elsewhere). Reinstall neuralforecast to get the released "
                f"file: {reinstall_command(found.install)}."
            )
    return wanted


def _why_not(found: Survey, status: PatchStatus, file: str) -> str:
    install = found.install
    if status.state == "unknown-release":
        return (
            f"neuralforecast {install.version} in {install.site_packages} is unknown: {status.reason}. Upgrade "
            "nfpatch, or let it patch the release where a codemod matches exactly, and prove that first: "
            "`--allow-modified --prove`."
        )
    return (
        f"{install.file(file)} is not known as a file of neuralforecast {install.version}: {status.reason}. "
        "Restore the released file, or let nfpatch patch it as it is if the code in question still matches exactly: "
        "`--allow-modified`."
    )
