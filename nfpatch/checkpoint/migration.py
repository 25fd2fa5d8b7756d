"""Makes saved models fit the installed source: judges them in the target interpreter, replaces those that do not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, Optional

from nfpatch.catalog import Catalog
from nfpatch.checkpoint.conversation import Conversation, conversation
from nfpatch.checkpoint.files import ModelFile, Replacement, model_files, remove_litter, replace_all, staging_folder
from nfpatch.engine.launch import termination_as_exit
from nfpatch.engine.overlay import build_overlay
from nfpatch.engine.probe import probe
from nfpatch.errors import EnvironmentProblem, NfpatchError, Refused, as_problem
from nfpatch.installs.find import Install
from nfpatch.patching.plan import changes_to
from nfpatch.patching.survey import Survey, survey
from nfpatch.target.talk import (
    AllJudged,
    Done,
    Failed,
    Imported,
    Judged,
    MigrateSpec,
    NewFile,
    NotImported,
    SavedFile,
    Verdict,
    WriteFiles,
)

State = Literal["migrated", "already-fits", "refused"]


@dataclass(frozen=True)
class Migration:
    """What became of one path: a model file, or a folder that holds none.

    `model` is the class of the model, None where it was not found out. `dropped` and `added` are the keys of its state
    that went and came; with a dry run, those that would. `detail` says why it was refused, in one paragraph, and
    `exit_code` is that of such an error. `backup` is where the old file is kept.
    """

    path: Path
    state: State
    model: Optional[str] = None
    dropped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    detail: str = ""
    exit_code: int = 0
    backup: Optional[Path] = None

    @property
    def in_words(self) -> str:
        """The model, and what its state lost and got."""
        changes = [
            f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {verb}"
            for keys, verb in ((self.dropped, "dropped"), (self.added, "added"))
            if keys
        ]
        note = [self.detail] if self.state == "already-fits" and self.detail else []
        return ": ".join(filter(None, [self.model or "", ", ".join(changes + note)]))

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
class _Judged:
    """A file as the target interpreter judged it: what becomes of it, and whether it is to be rewritten."""

    number: int
    file: ModelFile
    seen: os.stat_result
    outcome: Migration
    is_misfit: bool


def migrate(
    paths: Sequence[Path],
    install: Install,
    catalog: Catalog,
    model: Optional[str] = None,
    trust: bool = False,
    keep: bool = True,
    dry_run: bool = False,
) -> tuple[Migration, ...]:
    """Make the models at these paths fit the installed source, each folder as a whole or not at all.

    The interpreter of the install reads them. `model` is the class of models that do not tell theirs. With `trust` a
    pickle may run what code it likes. With `keep` the old files stay as `FILE.nfpatch-backup`. With `dry_run` nothing
    is written.

    What is wrong with a file is in its Migration. Raises UsageError where there is nothing at a path, Refused
    where a killed run left the install half done, and EnvironmentProblem where the interpreter cannot do the work.
    """
    found = survey(install, catalog)
    if found.interrupted:
        raise Refused("A killed run left this install half done. Run `nfpatch apply` or `nfpatch revert` first.")
    files, hopeless = _files_at(paths, model)
    if not files:
        return hopeless
    probe(install.python, install.extra_path)
    with termination_as_exit(), tempfile.TemporaryDirectory(prefix="nfpatch-models-") as folder:
        patched = _patched_tree(found, Path(folder, "patched"))
        with conversation(install.python, install.extra_path, Path(folder)) as talk:
            judged = _judged(talk, files, found, patched, trust)
            groups = [_together(list(group)) for _, group in groupby(judged, key=lambda each: each.file.group)]
            if not dry_run:
                groups = [_replaced(talk, group, keep) for group in groups]
    return (*hopeless, *(each.outcome for group in groups for each in group))


def _files_at(paths: Sequence[Path], model: Optional[str]) -> tuple[list[ModelFile], tuple[Migration, ...]]:
    """The model files, each once, and what is to be said of the paths that hold none."""
    files: dict[Path, ModelFile] = {}
    hopeless = []
    for path in paths:
        try:
            for file in model_files(path, model):
                files.setdefault(file.path.absolute(), file)
        except (Refused, EnvironmentProblem) as error:
            hopeless.append(_refused(Migration(path, "refused"), error))
    return list(files.values()), tuple(hopeless)


def _refused(outcome: Migration, error: NfpatchError) -> Migration:
    return replace(outcome, state="refused", dropped=(), added=(), detail=str(error), exit_code=error.exit_code)


def _patched_tree(found: Survey, folder: Path) -> Optional[Path]:
    """A copy of the package without the layers that patches remove; None where none of these patches can be applied.

    A key that a patch declares unused is so only in some configurations of a model: in those in which this source does
    not build it.
    """
    wanted: dict[str, frozenset[str]] = {}
    for status in found.statuses:
        is_removing = status.patch.removes_parameters and status.state == "applicable"
        for file in status.files if is_removing else ():
            wanted[file] = wanted.get(file, found.ledger.patches_of(file)) | {status.patch.id}
    try:
        patched = {change.file: change.then for change in changes_to(found, wanted)}
    except Refused:  # such a source gives no evidence
        return None
    return build_overlay(found.install.package, folder, patched) if patched else None


def _judged(
    talk: Conversation, files: Sequence[ModelFile], found: Survey, patched: Optional[Path], trust: bool
) -> list[_Judged]:
    """The files as the target interpreter finds them."""
    install = found.install
    seen = [os.stat(file.path) for file in files]
    unused: dict[str, tuple[str, ...]] = {}
    for patch in found.catalog.patches:
        if patch.removes_parameters:
            unused[patch.model] = (*unused.get(patch.model, ()), *patch.unused_parameters)
    talk.send(
        MigrateSpec(
            files=tuple(  # the process runs in a folder of its own
                SavedFile(os.path.abspath(file.path), file.claimed, tuple(file.suggested)) for file in files
            ),
            unused=unused,
            installed=None if install.tree is None else str(install.tree),
            patched=None if patched is None else str(patched),
            trust=trust,
        )
    )
    judged = []
    for event in talk.events(until=AllJudged):
        if isinstance(event, Judged):
            file = files[event.file]
            judged.append(_Judged(event.file, file, seen[event.file], *_outcome_of(file.path, event.verdict)))
        else:
            _check_imported(event, install)
    return judged


def _check_imported(event: object, install: Install) -> None:
    """Raise EnvironmentProblem unless the target interpreter has imported the install that is meant."""
    if isinstance(event, NotImported):
        raise EnvironmentProblem(
            f"{install.package} cannot be imported, so no model can be built: {event.detail}. Install what it "
            "needs, or name the interpreter that can with --python."
        )
    if isinstance(event, Imported) and not os.path.samefile(Path(event.file).parent, install.package):
        raise EnvironmentProblem(
            f"The interpreter imports {Path(event.file).parent}, and not {install.package}. Name the right one with "
            "--python, or the folder with --site-packages."
        )


def _outcome_of(path: Path, verdict: Verdict) -> tuple[Migration, bool]:
    """What the verdict of the target interpreter comes to, and whether the file is to be rewritten."""
    outcome = Migration(path, "already-fits", verdict.model, verdict.dropped, verdict.added, verdict.detail)
    if verdict.state == "misfit":
        return replace(outcome, state="migrated"), True
    if verdict.state == "refused":
        return _refused(outcome, _reason(path, verdict.detail, verdict.cause)), False
    return outcome, False


def _reason(path: Path, detail: str, cause: Optional[str]) -> NfpatchError:
    if cause == "environment":
        return EnvironmentProblem(f"{path} {detail}. The file stays as it is.")
    advice = (
        " Nothing of it was run. If you know who wrote the file and trust them, `--trust` loads it, code and all."
        if cause == "code"
        else ""
    )
    return Refused(f"{path} {detail}. The file stays as it is.{advice}")


def _together(group: list[_Judged]) -> list[_Judged]:
    """The files of a folder, none of which is migrated where one is refused: they are loaded together."""
    refused = next((each for each in group if each.outcome.state == "refused"), None)
    if refused is None:
        return group
    reason = Refused(
        f"{group[0].file.group} is migrated as a whole or not at all, and {refused.file.path.name} is refused. "
        "The others stay as they are."
    )
    return [_left_alone(each, reason) if each.is_misfit else each for each in group]


def _left_alone(judged: _Judged, reason: NfpatchError) -> _Judged:
    return replace(judged, outcome=_refused(judged.outcome, reason), is_misfit=False)


def _replaced(talk: Conversation, group: list[_Judged], keep: bool) -> list[_Judged]:
    """The files of a folder after those that do not fit were rewritten and put in place."""
    misfits = [each for each in group if each.is_misfit]
    if not misfits:
        remove_litter(group[0].file.path.parent)
        return group
    try:
        with staging_folder(misfits[0].file.path.parent) as staging:
            replacements = [Replacement(each.file.path, each.seen, staging / f"new-{each.number}") for each in misfits]
            new_files = (NewFile(each.number, os.path.abspath(new.new)) for each, new in zip(misfits, replacements))
            talk.send(WriteFiles(tuple(new_files)))
            failures = [event for event in talk.events(until=Done) if isinstance(event, Failed)]
            for event in failures:
                raise _failure(next(each for each in misfits if each.number == event.file), event)
            kept = replace_all(replacements, staging, keep)
    except NfpatchError as error:
        return [_left_alone(each, error) if each.is_misfit else each for each in group]
    backups = dict(zip((each.number for each in misfits), kept))
    return [replace(each, outcome=replace(each.outcome, backup=backups.get(each.number))) for each in group]


def _failure(judged: _Judged, event: Failed) -> BaseException:
    """Why a new file could not be written."""
    path = judged.file.path
    if event.errno is not None:
        return as_problem(OSError(event.errno, os.strerror(event.errno), str(path)))
    return _reason(path, event.detail, "content")
