"""The steps by which the changes of a plan reach the disk; `transaction` carries them out, all or none."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Optional

from nfpatch.installs import record
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import RUNTIME_FOLDER, Install
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of, ledger_path, original_path, read_original
from nfpatch.installs.transaction import Folder, Link, Move, Place, Prune, Remove, Step, Write
from nfpatch.patching.plan import FileChange, ModuleChange, TreeChange
from nfpatch.patching.survey import Survey

# What follows the name of a module in the name of its compiled file.
_SUFFIXES = re.compile(r"\.[\w-]+(\.opt-\w+)?\.pyc", re.ASCII)


def survey_after(found: Survey, changes: Sequence[TreeChange]) -> Survey:
    """The survey of the install once these changes are carried out."""
    after = _ledger_after(found, changes)
    contents = {**found.contents, **{change.file: change.then for change in changes}}
    current = {file: found.current[file] for file in found.current.keys() & after.files.keys()}
    for change in _files_in(changes):
        if change.patches:
            current[change.file] = dict(change.patches)
    variants = found.variants.after(after, contents)
    return found._replace(ledger=after, contents=contents, variants=variants, current=current)


def steps_for(found: Survey, changes: Sequence[TreeChange]) -> tuple[Step, ...]:
    """The steps that carry out these changes: modules, files, kept originals, compiled files, RECORD and ledger.

    Modules come before the files that import them, and go after them.
    """
    install, after = found.install, _ledger_after(found, changes)
    steps: list[Step] = _steps_to_modules(
        install, [change for change in _modules_in(changes) if change.then is not None]
    )
    for change in _files_in(changes):
        entry = found.ledger.files.get(change.file)
        steps += _saving(install, change)
        if change.patches:
            steps += _steps_to_patched(install, change, entry, after.files[change.file])
        else:
            assert entry is not None  # only a patched file can go back to its original
            steps += _steps_to_original(install, change, entry)
    removed = [change for change in _modules_in(changes) if change.then is None]
    steps += _steps_without_modules(install, removed)
    # last, because a folder that is gone is the one thing that takes room on the disk to take back
    caches = [
        Prune(install.file(change.file).parent / "__pycache__") for change in _files_in(changes) if not change.patches
    ]
    folders = [install.file(RUNTIME_FOLDER) / "__pycache__", install.file(RUNTIME_FOLDER)] if removed else []
    return (*steps, *_bookkeeping(found, after, changes), *caches, *map(Prune, folders))


def _files_in(changes: Sequence[TreeChange]) -> list[FileChange]:
    return [change for change in changes if isinstance(change, FileChange)]


def _modules_in(changes: Sequence[TreeChange]) -> list[ModuleChange]:
    return [change for change in changes if isinstance(change, ModuleChange)]


def _steps_to_modules(install: Install, changes: Sequence[ModuleChange]) -> list[Step]:
    """The steps that write these runtime modules, in a folder and with an owner like those of their neighbours."""
    steps: list[Step] = [Folder(install.file(RUNTIME_FOLDER))] if changes else []
    for change in changes:
        assert change.then is not None
        path = install.file(change.file)
        steps += [*_saving(install, change), Write(path, change.then, like=install.package / "__init__.py")]
        steps += [Remove(compiled) for compiled in _bytecode_of(path)]
    return steps


def _steps_without_modules(install: Install, changes: Sequence[ModuleChange]) -> list[Step]:
    steps: list[Step] = []
    for change in changes:
        path = install.file(change.file)
        steps += [*_saving(install, change), Remove(path), *map(Remove, _bytecode_of(path))]
    return steps


def _entries_after(found: Survey, changes: Sequence[FileChange]) -> dict[str, PatchedFile]:
    """The patched files, by path, once these changes are carried out."""
    files = dict(found.ledger.files)
    for change in changes:
        entry = files.pop(change.file, None)
        if change.patches:
            files[change.file] = _entry_after(found.install, change, entry)
    return files


def _ledger_after(found: Survey, changes: Sequence[TreeChange]) -> Ledger:
    before, files, added = found.ledger, _entries_after(found, _files_in(changes)), dict(found.ledger.added)
    for change in _modules_in(changes):
        added.pop(change.file, None)
        if change.then is not None:
            added[change.file] = hash_of(change.then)
    record_sha256 = before.record_sha256
    if not before.files and found.install.record is not None:
        record_sha256 = hash_of(read_file(found.install.record))
    if not files:
        return Ledger(before.version)
    # in the order of the files, so that ledger and RECORD tell nothing of the way to this set
    return Ledger(before.version, dict(sorted(files.items())), dict(sorted(added.items())), record_sha256)


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


def saved_path(install: Install, change: TreeChange) -> Path:
    """Where the copy of edits goes: beside the file, under the first name that is free."""
    path = install.file(change.file)
    names = (f"{path.name}.nfpatch-saved{'' if number == 1 else f'-{number}'}" for number in count(1))
    return next(saved for name in names if not os.path.lexists(saved := path.with_name(name)))


def _saving(install: Install, change: TreeChange) -> list[Step]:
    return [Place(saved_path(install, change), install.file(change.file))] if change.saves else []


def _steps_to_original(install: Install, change: FileChange, entry: PatchedFile) -> list[Step]:
    path, kept = install.file(change.file), original_path(install, change.file)
    stale = [compiled for compiled in _bytecode_of(path) if _relative(install, compiled) not in entry.bytecode]
    # where the original was put back already, that file stays
    steps: list[Step]
    if change.now == change.then:
        steps = [Remove(kept)]
    else:
        steps = [Move(path, kept)] if entry.link is None else [Link(path, entry.link), Remove(kept)]
    steps += [Remove(compiled) for compiled in stale]
    for name in entry.bytecode:
        steps.append(Move(install.file(name), original_path(install, name)))
    return steps


def _bytecode_of(source: Path) -> list[Path]:
    """The compiled files of a module, of every Python version and optimisation level (PEP 3147, PEP 488)."""
    folder, stem = source.parent / "__pycache__", source.stem
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if name.startswith(stem) and _SUFFIXES.fullmatch(name, len(stem)))


def _relative(install: Install, path: Path) -> str:
    return path.relative_to(install.root).as_posix()


def _bookkeeping(found: Survey, after: Ledger, changes: Sequence[TreeChange]) -> list[Step]:
    """The steps for RECORD and ledger."""
    install, before = found.install, found.ledger
    if install.record is None:
        return [Write(ledger_path(install), after.to_bytes()) if after.files else Remove(ledger_path(install))]
    record_name, origin = _relative_record(install), str(install.record)
    present = original = read_file(install.record)
    # an edit of a patched file is not in RECORD: the row that stands there is still what nfpatch wrote
    standing = {row[0]: row for row in record.parse(present, origin)}
    written = {**standing, **_rows_of_modules(found, standing), **_rows_of_changes(changes)}
    rows_before: dict[str, Optional[record.Row]] = {}
    if before.files:
        original = read_original(install, record_name, before.record_sha256 or "")
        rows_before = _rows(install, before, read_file(ledger_path(install)), original, standing)
    rows_after = _rows(install, after, after.to_bytes(), original, written) if after.files else {}
    if present == record.edit(original, origin, rows_before):
        desired = record.edit(original, origin, rows_after)
    else:  # another program wrote RECORD meanwhile: its rows stay, ours are brought up to date one by one
        released = {row[0]: row for row in record.parse(original, origin)}
        taken_back = {path: released.get(path) for path in rows_before}
        desired = record.edit(present, origin, {**taken_back, **rows_after})
    kept_record = original_path(install, record_name)
    if after.files:
        keep = [] if before.files else [Place(kept_record, install.record)]
        return [*keep, Write(install.record, desired), Write(ledger_path(install), after.to_bytes())]
    if desired == original:
        return [Move(install.record, kept_record), Remove(ledger_path(install))]
    return [Write(install.record, desired), Remove(kept_record), Remove(ledger_path(install))]


def _rows_of_changes(changes: Sequence[TreeChange]) -> dict[str, record.Row]:
    return {change.file: record.row_for(change.file, change.then) for change in changes if change.then is not None}


def _rows_of_modules(found: Survey, standing: Mapping[str, record.Row]) -> dict[str, record.Row]:
    """The rows of the runtime modules that RECORD lacks, where they are as nfpatch wrote them."""
    rows = {}
    for file, sha256 in found.ledger.added.items():
        content = found.contents[file]
        if file not in standing and content is not None and hash_of(content) == sha256:
            rows[file] = record.row_for(file, content)
    return rows


def _rows(
    install: Install, ledger: Ledger, ledger_bytes: bytes, original_record: bytes, patched: Mapping[str, record.Row]
) -> dict[str, Optional[record.Row]]:
    """What RECORD says in this state and did not say before the first patch: a row, or None for one that goes.

    `patched` are the rows of the patched and the added files. What is added to a checkout is in no RECORD, as nothing
    else there is: uninstalling leaves the checkout as it is.
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
    if install.kind == "regular":
        rows.update({file: patched.get(file) for file in ledger.added})
    own = {ledger_path(install): ledger_bytes, **{original_path(install, name): data for name, data in kept.items()}}
    for path, content in own.items():
        name = path.relative_to(install.site_packages).as_posix()
        rows[name] = record.row_for(name, content)
    return rows


def _relative_record(install: Install) -> str:
    assert install.record is not None
    return install.record.relative_to(install.site_packages).as_posix()
