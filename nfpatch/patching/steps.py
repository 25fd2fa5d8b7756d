"""Translates the changes of a plan into the steps of a transaction."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Optional

from nfpatch.installs import record
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import RUNTIME_FOLDER, Install
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of, ledger_path, original_path, read_original
from nfpatch.installs.transaction import FileStep, Folder, Link, LinkOrCopy, Move, Prune, Remove, Write
from nfpatch.patching.install_state import InstallState
from nfpatch.patching.plan import FileChange, ModuleChange, TreeChange

# The rest of the name of a compiled file after the name of its module.
_SUFFIXES = re.compile(r"\.[\w-]+(\.opt-\w+)?\.pyc", re.ASCII)

# The compiled files by the path of their module.
Bytecode = Mapping[Path, Sequence[Path]]


def state_after(state: InstallState, changes: Sequence[TreeChange]) -> InstallState:
    """The state of the install after these changes."""
    after = _ledger_after(state, changes)
    contents = {**state.contents, **{change.file: change.desired for change in changes}}
    expected = {file: state.expected[file] for file in state.expected.keys() & after.files.keys()}
    for change in _files_in(changes):
        if change.patches:
            expected[change.file] = dict(change.patches)
    variants = state.variants.after(after, contents)
    return state._replace(ledger=after, contents=contents, variants=variants, expected=expected)


def steps_for(state: InstallState, changes: Sequence[TreeChange], after: Ledger) -> tuple[FileStep, ...]:
    """The steps for these changes: modules, files, kept originals, compiled files, RECORD and ledger.

    `after` is the ledger of `state_after`. Modules are written before the files that import them, and removed
    after them.
    """
    install = state.install
    bytecode = _bytecode_of([install.file(change.file) for change in changes])
    added = [change for change in _modules_in(changes) if change.desired is not None]
    steps: list[FileStep] = _steps_to_modules(install, added, bytecode)
    for change in _files_in(changes):
        entry = state.ledger.files.get(change.file)
        steps += _backup_steps(install, change)
        if change.patches:
            steps += _steps_to_patched(install, change, entry, after.files[change.file], bytecode)
        else:
            assert entry is not None  # only a patched file can be reverted
            steps += _steps_to_original(install, change, entry, bytecode)
    removed = [change for change in _modules_in(changes) if change.desired is None]
    steps += _steps_without_modules(install, removed, bytecode)
    # last, because restoring a removed folder is the only rollback that needs disk space
    caches = [
        Prune(install.file(change.file).parent / "__pycache__") for change in _files_in(changes) if not change.patches
    ]
    folders = [install.file(RUNTIME_FOLDER) / "__pycache__", install.file(RUNTIME_FOLDER)] if removed else []
    return (*steps, *_bookkeeping(state, after, changes), *caches, *map(Prune, folders))


def _files_in(changes: Sequence[TreeChange]) -> list[FileChange]:
    return [change for change in changes if isinstance(change, FileChange)]


def _modules_in(changes: Sequence[TreeChange]) -> list[ModuleChange]:
    return [change for change in changes if isinstance(change, ModuleChange)]


def _steps_to_modules(install: Install, changes: Sequence[ModuleChange], bytecode: Bytecode) -> list[FileStep]:
    """The steps that write these runtime modules, with the mode and owner of their neighbours."""
    steps: list[FileStep] = [Folder(install.file(RUNTIME_FOLDER))] if changes else []
    for change in changes:
        assert change.desired is not None
        path = install.file(change.file)
        steps += [*_backup_steps(install, change), Write(path, change.desired, like=install.package / "__init__.py")]
        steps += map(Remove, bytecode[path])
    return steps


def _steps_without_modules(install: Install, changes: Sequence[ModuleChange], bytecode: Bytecode) -> list[FileStep]:
    steps: list[FileStep] = []
    for change in changes:
        path = install.file(change.file)
        steps += [*_backup_steps(install, change), Remove(path), *map(Remove, bytecode[path])]
    return steps


def _entries_after(state: InstallState, changes: Sequence[FileChange]) -> dict[str, PatchedFile]:
    """The patched files, by path, after these changes."""
    files = dict(state.ledger.files)
    for change in changes:
        entry = files.pop(change.file, None)
        if change.patches:
            files[change.file] = _entry_after(state.install, change, entry)
    return files


def _ledger_after(state: InstallState, changes: Sequence[TreeChange]) -> Ledger:
    before, files, added = state.ledger, _entries_after(state, _files_in(changes)), dict(state.ledger.added)
    for change in _modules_in(changes):
        added.pop(change.file, None)
        if change.desired is not None:
            added[change.file] = hash_of(change.desired)
    record_sha256 = before.record_sha256
    if not before.files and state.install.record is not None:
        record_sha256 = hash_of(read_file(state.install.record))
    if not files:
        return Ledger(before.version)
    # sorted, so that ledger and RECORD do not depend on the order in which patches were applied
    return Ledger(before.version, dict(sorted(files.items())), dict(sorted(added.items())), record_sha256)


def _entry_after(install: Install, change: FileChange, entry: Optional[PatchedFile]) -> PatchedFile:
    patched = hash_of(change.desired)
    if entry is not None:
        return entry._replace(patched_sha256=patched, patches=change.patches)
    path = install.file(change.file)
    return PatchedFile(
        original_sha256=change.original_sha256,
        patched_sha256=patched,
        patches=change.patches,
        link=str(path.readlink()) if path.is_symlink() else None,
        bytecode=tuple(_relative(install, compiled) for compiled in _bytecode_of([path])[path]),
    )


def _steps_to_patched(
    install: Install, change: FileChange, entry: Optional[PatchedFile], after: PatchedFile, bytecode: Bytecode
) -> list[FileStep]:
    path = install.file(change.file)
    steps: list[FileStep] = []
    if entry is None:
        kept = original_path(install, change.file)
        # a relative symbolic link would be wrong from here, so its content is kept, and the ledger has its target
        assert change.current is not None  # a missing file has no original to keep
        steps.append(Write(kept, change.current, like=path) if after.link is not None else LinkOrCopy(kept, path))
        steps += [LinkOrCopy(original_path(install, name), install.file(name)) for name in after.bytecode]
    steps.append(Write(path, change.desired, like=path))
    steps += map(Remove, bytecode[path])
    return steps


def backup_path(install: Install, change: TreeChange) -> Path:
    """The path for the copy of an edited file: next to the file, with the first free name."""
    path = install.file(change.file)
    names = (f"{path.name}.nfpatch-saved{'' if number == 1 else f'-{number}'}" for number in count(1))
    return next(backup for backup in map(path.with_name, names) if not os.path.lexists(backup))


def _backup_steps(install: Install, change: TreeChange) -> list[FileStep]:
    return [LinkOrCopy(backup_path(install, change), install.file(change.file))] if change.needs_backup else []


def _steps_to_original(install: Install, change: FileChange, entry: PatchedFile, bytecode: Bytecode) -> list[FileStep]:
    path, kept = install.file(change.file), original_path(install, change.file)
    stale = [compiled for compiled in bytecode[path] if _relative(install, compiled) not in entry.bytecode]
    # if the original was already restored by hand, that file stays
    steps: list[FileStep]
    if change.current == change.desired:
        steps = [Remove(kept)]
    else:
        steps = [Move(path, kept)] if entry.link is None else [Link(path, entry.link), Remove(kept)]
    steps += [Remove(compiled) for compiled in stale]
    for name in entry.bytecode:
        steps.append(Move(install.file(name), original_path(install, name)))
    return steps


def _bytecode_of(sources: Iterable[Path]) -> Bytecode:
    """The compiled files of these modules, of every Python version and optimisation level (PEP 3147, PEP 488)."""
    names: dict[Path, list[str]] = {}
    found: dict[Path, list[Path]] = {}
    for source in sources:
        folder, stem = source.parent / "__pycache__", source.stem
        if folder not in names:
            names[folder] = sorted(os.listdir(folder)) if folder.is_dir() else []
        own = (name for name in names[folder] if name.startswith(stem) and _SUFFIXES.fullmatch(name, len(stem)))
        found[source] = [folder / name for name in own]
    return found


def _relative(install: Install, path: Path) -> str:
    return path.relative_to(install.root).as_posix()


def _bookkeeping(state: InstallState, after: Ledger, changes: Sequence[TreeChange]) -> list[FileStep]:
    """The steps that update RECORD and ledger."""
    install, before = state.install, state.ledger
    if install.record is None:
        return [Write(ledger_path(install), after.to_bytes()) if after.files else Remove(ledger_path(install))]
    record_name, origin = _relative_record(install), str(install.record)
    present = original = read_file(install.record)
    # RECORD does not reflect edits of a patched file: its row is still the one that nfpatch wrote
    standing = {row[0]: row for row in record.parse(present, origin)}
    written = {**standing, **_rows_of_modules(state, standing), **_rows_of_changes(changes)}
    rows_before: dict[str, Optional[record.Row]] = {}
    if before.files:
        original = read_original(install, record_name, before.record_sha256 or "")
        rows_before = _rows(install, before, read_file(ledger_path(install)), original, standing)
    rows_after = _rows(install, after, after.to_bytes(), original, written) if after.files else {}
    if present == record.edit(original, origin, rows_before):
        desired = record.edit(original, origin, rows_after)
    else:  # another program changed RECORD in the meantime: keep its rows, and update ours one by one
        released = {row[0]: row for row in record.parse(original, origin)}
        restored = {path: released.get(path) for path in rows_before}
        desired = record.edit(present, origin, {**restored, **rows_after})
    kept_record = original_path(install, record_name)
    if after.files:
        keep = [] if before.files else [LinkOrCopy(kept_record, install.record)]
        return [*keep, Write(install.record, desired), Write(ledger_path(install), after.to_bytes())]
    if desired == original:
        return [Move(install.record, kept_record), Remove(ledger_path(install))]
    return [Write(install.record, desired), Remove(kept_record), Remove(ledger_path(install))]


def _rows_of_changes(changes: Sequence[TreeChange]) -> dict[str, record.Row]:
    return {
        change.file: record.row_for(change.file, change.desired) for change in changes if change.desired is not None
    }


def _rows_of_modules(state: InstallState, standing: Mapping[str, record.Row]) -> dict[str, record.Row]:
    """The rows of those runtime modules that RECORD lacks and that are unchanged since nfpatch wrote them."""
    rows = {}
    for file, sha256 in state.ledger.added.items():
        content = state.contents[file]
        if file not in standing and content is not None and hash_of(content) == sha256:
            rows[file] = record.row_for(file, content)
    return rows


def _rows(
    install: Install, ledger: Ledger, ledger_bytes: bytes, original_record: bytes, patched: Mapping[str, record.Row]
) -> dict[str, Optional[record.Row]]:
    """The rows of RECORD, by path, that differ in this state from the original RECORD; None for a removed row.

    `patched` has the rows of the patched and added files. Files that are added to a checkout are not in RECORD, like
    all its other files: uninstalling does not change the checkout.
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
