"""Migrates saved models: checks them in the target interpreter, and rewrites those that do not fit the source."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, Optional

from nfpatch.catalog import Catalog
from nfpatch.checkpoint.files import ModelFile, Replacement, model_files, remove_leftovers, replace_all, staging_folder
from nfpatch.checkpoint.worker import MigrationWorker, start_worker
from nfpatch.engine.launch import termination_as_exit
from nfpatch.engine.probe import probe
from nfpatch.engine.sources import build_source, check_not_interrupted
from nfpatch.errors import InstallEnvironmentError, NfpatchError, RefusedError, to_environment_error
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import original_with
from nfpatch.target.messages import FileCheck, FilesChecked, Imported, MigrateSpec, SavedFile, WriteFiles, Written

MigrationState = Literal["migrated", "already-fits", "refused"]


@dataclass(frozen=True)
class Migration:
    """The result for one path: a model file, or a folder that contains none.

    `model` is the class of the model, None if it is unknown. `dropped` and `added` are the keys of its state dict that
    were dropped and added, or would be in a dry run. `detail` says why it was refused, in one paragraph, and
    `exit_code` is that of this error. `backup` is the path of the copy of the old file.
    """

    path: Path
    state: MigrationState
    model: Optional[str] = None
    dropped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    detail: str = ""
    exit_code: int = 0
    backup: Optional[Path] = None

    def to_json(self) -> dict[str, object]:
        """An element of `files` in the JSON document."""
        return {
            "path": str(self.path),
            "model": self.model,
            "dropped": list(self.dropped),
            "added": list(self.added),
            "state": self.state,
            "detail": self.detail,
            "backup": None if self.backup is None else str(self.backup),
        }


@dataclass(frozen=True)
class _CheckedFile:
    """A file that the target interpreter has checked."""

    number: int
    file: ModelFile
    seen: os.stat_result
    outcome: Migration

    @property
    def is_misfit(self) -> bool:
        """Whether it must be rewritten."""
        return self.outcome.state == "migrated"

    def refused(self, reason: NfpatchError) -> _CheckedFile:
        """The same file, refused for this reason."""
        return replace(self, outcome=_refused(self.outcome, reason))


def migrate(
    paths: Sequence[Path],
    install: Install,
    catalog: Catalog,
    model: Optional[str] = None,
    trust: bool = False,
    keep: bool = True,
    dry_run: bool = False,
) -> tuple[Migration, ...]:
    """Migrate the models at these paths to the installed source, each folder as a whole or not at all.

    The interpreter of the install reads them. `model` is the class of models whose files do not record it. With
    `trust`, pickles may execute code. With `keep`, the old files are kept as `FILE.nfpatch-backup`. With `dry_run`,
    nothing is written.

    Problems of a file are in its Migration. Raises UsageError if a path does not exist, RefusedError if an interrupted
    run left the install unfinished, and InstallEnvironmentError if the interpreter fails.
    """
    state = inspect_install(install, catalog)
    check_not_interrupted(state)
    files, without_models = _files_at(paths, model)
    if not files:
        return without_models
    probe(install.python, install.extra_path)
    with termination_as_exit(), tempfile.TemporaryDirectory(prefix="nfpatch-models-") as folder:
        patched = _patched_tree(state, Path(folder, "patched"))
        with start_worker(install.python, install.extra_path, Path(folder)) as worker:
            checked = _check_files(worker, files, state, patched, trust)
            groups = [_all_or_none(list(group)) for _, group in groupby(checked, key=lambda each: each.file.group)]
            if not dry_run:
                groups = [_replace_group(worker, group, keep) for group in groups]
    return (*without_models, *(each.outcome for group in groups for each in group))


def _files_at(paths: Sequence[Path], model: Optional[str]) -> tuple[list[ModelFile], tuple[Migration, ...]]:
    """The model files, each once, and the results for paths that contain none."""
    files: dict[Path, ModelFile] = {}
    without_models = []
    for path in paths:
        try:
            for file in model_files(path, model):
                files.setdefault(file.path.absolute(), file)
        except (RefusedError, InstallEnvironmentError) as error:
            without_models.append(_refused(Migration(path, "refused"), error))
    return list(files.values()), tuple(without_models)


def _refused(outcome: Migration, error: NfpatchError) -> Migration:
    return replace(outcome, state="refused", dropped=(), added=(), detail=str(error), exit_code=error.exit_code)


def _patched_tree(state: InstallState, folder: Path) -> Optional[Path]:
    """A copy of the package without the layers that patches remove; None if no such patch can be applied.

    A parameter that a patch removes is unused only in those configurations in which this source does not build it.
    """
    applicable = [status.patch for status in state.statuses if status.state == "applicable"]
    removing = frozenset(patch.id for patch in applicable if patch.removes_parameters)
    try:
        return build_source(state.install, original_with(state, removing), folder)
    except RefusedError:  # the source cannot be patched
        return None


def _check_files(
    worker: MigrationWorker, files: Sequence[ModelFile], state: InstallState, patched: Optional[Path], trust: bool
) -> list[_CheckedFile]:
    """Check the files in the target interpreter."""
    install = state.install
    seen = [os.stat(file.path) for file in files]
    unused: dict[str, tuple[str, ...]] = {}
    for patch in state.catalog.patches:
        if patch.removes_parameters:
            unused[patch.model] = (*unused.get(patch.model, ()), *patch.unused_parameters)
    worker.send(
        MigrateSpec(
            # absolute paths, because the process has another working directory
            files=tuple(SavedFile(os.path.abspath(file.path), file.claimed, file.suggested) for file in files),
            unused=unused,
            installed=None if install.tree is None else str(install.tree),
            patched=None if patched is None else str(patched),
            trust=trust,
        )
    )
    _check_imported(worker.receive(Imported), install)
    outcomes = map(_outcome_of, files, worker.receive(FilesChecked).checks)
    return [_CheckedFile(number, *each) for number, each in enumerate(zip(files, seen, outcomes))]


def _check_imported(imported: Imported, install: Install) -> None:
    """Raise InstallEnvironmentError unless the target interpreter has imported this install."""
    if imported.file is None:
        raise InstallEnvironmentError(
            f"Cannot import {install.package}, so no model can be built: {imported.error}. Install what it "
            "needs, or name the interpreter that can with --python."
        )
    if not os.path.samefile(Path(imported.file).parent, install.package):
        raise InstallEnvironmentError(
            f"The interpreter imports {Path(imported.file).parent}, and not {install.package}. Name the right one with "
            "--python, or the folder with --site-packages."
        )


def _outcome_of(file: ModelFile, check: FileCheck) -> Migration:
    """The result according to the target interpreter; "migrated" if the file must be rewritten."""
    state: MigrationState = "migrated" if check.state == "misfit" else "already-fits"
    outcome = Migration(file.path, state, check.model, check.dropped, check.added, check.detail)
    if check.state == "refused":
        return _refused(outcome, _reason(file.path, check.detail, check.cause))
    return outcome


def _reason(path: Path, detail: str, cause: Optional[str]) -> NfpatchError:
    if cause == "environment":
        return InstallEnvironmentError(f"{path} {detail}. The file was not changed.")
    advice = (
        " None of its code was executed. If you trust the author of the file, load it with `--trust`."
        if cause == "code"
        else ""
    )
    return RefusedError(f"{path} {detail}. The file was not changed.{advice}")


def _all_or_none(group: list[_CheckedFile]) -> list[_CheckedFile]:
    """The files of a folder. They are loaded together, so none is migrated if one is refused."""
    refused = next((each for each in group if each.outcome.state == "refused"), None)
    if refused is None:
        return group
    reason = RefusedError(
        f"{group[0].file.group} is migrated as a whole or not at all, and {refused.file.path.name} was refused. "
        "The other files were not changed."
    )
    return [each.refused(reason) if each.is_misfit else each for each in group]


def _replace_group(worker: MigrationWorker, group: list[_CheckedFile], keep: bool) -> list[_CheckedFile]:
    """Rewrite and replace those files of a folder that do not fit."""
    misfits = [each for each in group if each.is_misfit]
    if not misfits:
        remove_leftovers(group[0].file.path.parent)
        return group
    try:
        with staging_folder(misfits[0].file.path.parent) as staging:
            replacements = [Replacement(each.file.path, each.seen, staging / f"new-{each.number}") for each in misfits]
            worker.send(WriteFiles(tuple(each.number for each in misfits), os.path.abspath(staging)))
            written = worker.receive(Written)
            for each in misfits:
                if each.number == written.failed:
                    raise _failure(each.file.path, written)
            kept = replace_all(replacements, staging, keep)
    except NfpatchError as error:
        return [each.refused(error) if each.is_misfit else each for each in group]
    backups = dict(zip((each.number for each in misfits), kept))
    return [replace(each, outcome=replace(each.outcome, backup=backups.get(each.number))) for each in group]


def _failure(path: Path, written: Written) -> BaseException:
    """The error that prevented a new file."""
    if written.errno is not None:
        return to_environment_error(OSError(written.errno, os.strerror(written.errno), str(path)))
    return _reason(path, written.detail, "content")
