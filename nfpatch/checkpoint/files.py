"""Files of saved models: finding them, and replacing a group of them atomically.

New files are first written to a hidden folder next to the models, and backups end in `.nfpatch-backup`, so that
`NeuralForecast.load`, which reads every file that ends in `.ckpt` or `.safetensors`, ignores both.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Optional

from nfpatch.errors import InstallEnvironmentError, RefusedError, UsageError, to_environment_error
from nfpatch.installs.disk import copy_owner, flush_folder, link_or_copy

SUFFIXES = (".ckpt", ".safetensors")
# Other files that neuralforecast 3.3.0 saves in the format of the models.
NO_MODELS = ("dataset.safetensors", "configuration.safetensors")
STAGING_PREFIX = ".nfpatch-migrate-"
BACKUP_SUFFIX = ".nfpatch-backup"


@dataclass(frozen=True)
class ModelFile:
    """A file that may contain a model.

    `claimed` is its class according to the user or the folder; `suggested` are classes that its name may stand for.
    `group` is the path that the user named: the files of a folder are loaded together, so they are migrated together.
    """

    path: Path
    group: Path
    claimed: Optional[str] = None
    suggested: tuple[str, ...] = ()


def model_files(path: Path, model: Optional[str] = None) -> tuple[ModelFile, ...]:
    """The model files in a folder written by `NeuralForecast.save`, or the single file; of class `model` if given.

    Raises UsageError if the path does not exist, RefusedError for a folder without models, and InstallEnvironmentError
    if it cannot be read.
    """
    if not os.path.exists(path):
        raise UsageError(f"{path} does not exist. Name a folder written by NeuralForecast.save, or a model file.")
    if not path.is_dir() and not path.is_file():
        raise RefusedError(f"{path} is neither a file nor a folder. Name a model file or its folder.")
    files = _model_paths_in(path) if path.is_dir() else [path]
    aliases = _aliases(files[0].parent)
    return tuple(ModelFile(file, path, model or aliases.get(_alias(file)), _suggested(file)) for file in files)


def _model_paths_in(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InstallEnvironmentError(
            f"Cannot read {folder}: {error.strerror}. Re-run as a user with read access."
        ) from error
    paths = [folder / name for name in names if name.endswith(SUFFIXES) and name not in NO_MODELS]
    files = [path for path in paths if path.is_file()]
    if not files:
        raise RefusedError(
            f"{folder} contains no saved models: no file in it ends in {' or '.join(SUFFIXES)}. Name a folder written "
            "by NeuralForecast.save, or a model file."
        )
    return files


def _alias(file: Path) -> str:
    """The name of the model in the name of its file: `TFT` for `TFT_0.ckpt`."""
    return file.stem.rpartition("_")[0]


def _suggested(file: Path) -> tuple[str, ...]:
    """The classes that the name of a file may stand for; releases before 1.7.1 use only its first part."""
    names = dict.fromkeys((_alias(file), file.stem.partition("_")[0]))
    return tuple(name for name in names if name)


def _aliases(folder: Path) -> dict[str, str]:
    """The class of each alias of the models in a folder, as neuralforecast recorded it; empty if it did not.

    The files are not trusted: only a dictionary of strings is read from the pickle, and a damaged file is ignored.
    """
    found: Any = {}
    with suppress(Exception):
        found = _PlainUnpickler((folder / "alias_to_model.pkl").open("rb")).load()
    with suppress(Exception):
        document = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))
        found = document["configuration"]["alias_to_model"]
    pairs = found.items() if isinstance(found, dict) else ()
    return {alias: model for alias, model in pairs if isinstance(alias, str) and isinstance(model, str)}


class _PlainUnpickler(pickle.Unpickler):
    """Loads only plain data."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def remove_leftovers(folder: Path) -> None:
    """Remove the files that interrupted runs left in a folder of models, if possible."""
    if any(folder.glob(f"{STAGING_PREFIX}*")):
        with suppress(InstallEnvironmentError), staging_folder(folder):
            pass


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder for new files inside `folder`. Also removes those of interrupted runs.

    Raises InstallEnvironmentError if `folder` is not writable, or if another nfpatch process works there.
    """
    with _locked(folder) as alone:
        if alone:
            for left in folder.glob(f"{STAGING_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
        try:
            staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
        except OSError as error:
            raise InstallEnvironmentError(
                f"Cannot write to {folder}: {error.strerror}. Nothing was changed. Re-run as the owner, or "
                "migrate a copy of them."
            ) from error
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, without a lock file. Yields whether the file system supports such locks."""
    import fcntl

    with ExitStack() as stack:
        is_locked = False
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(_close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError as error:
            raise InstallEnvironmentError(
                f"Another nfpatch process migrates the models in {folder}. Re-run the command when it has finished."
            ) from error
        except OSError:  # the file system does not support such locks
            pass
        yield is_locked


def _close(descriptor: int) -> None:
    with suppress(OSError):  # the files are complete by then
        os.close(descriptor)


@dataclass(frozen=True)
class Replacement:
    """A file, its status when it was checked, and the new file that replaces it."""

    path: Path
    seen: os.stat_result
    new: Path


def replace_all(replacements: Sequence[Replacement], staging: Path, keep: bool) -> tuple[Optional[Path], ...]:
    """Replace the files, all or none unless the process is killed; new files get the mode and owner of the old ones.

    With `keep`, backups of the old files are kept, and their paths are returned. Raises RefusedError if a file was
    changed after it was checked, and InstallEnvironmentError if an operation fails; nothing is changed then.
    """
    folder = staging.parent
    for replacement in replacements:
        if _identity(os.stat(replacement.path)) != _identity(replacement.seen):
            raise RefusedError(f"{replacement.path} was changed while it was being migrated. Re-run the command.")
    kept: list[Optional[Path]] = []
    made: list[Path] = []
    done: list[tuple[Path, Path]] = []
    try:
        for number, replacement in enumerate(replacements):
            path, old = replacement.path, staging / f"old-{number}"
            os.chmod(replacement.new, stat.S_IMODE(replacement.seen.st_mode))
            copy_owner(replacement.seen, replacement.new)
            link_or_copy(path, old)
            backup = _backup_of(path) if keep else None
            if backup is not None and not os.path.lexists(backup):
                made.append(backup)
                link_or_copy(path, backup)
            kept.append(backup)
        flush_folder(folder)
        for number, replacement in enumerate(replacements):
            done.append((staging / f"old-{number}", replacement.path))
            os.replace(replacement.new, replacement.path)
        flush_folder(folder)
    except BaseException as error:
        with suppress(OSError):
            for old, path in reversed(done):
                os.replace(old, path)
            for backup in made:
                backup.unlink(missing_ok=True)
        raise to_environment_error(error) from error
    return tuple(kept)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _backup_of(path: Path) -> Path:
    """The path for the backup of a file: the first free name, or the one that an interrupted run used for this file."""
    names = (f"{path.name}{BACKUP_SUFFIX}{'' if number == 1 else f'-{number}'}" for number in count(1))
    candidates = (path.with_name(name) for name in names)
    return next(backup for backup in candidates if not os.path.lexists(backup) or _is_same(backup, path))


def _is_same(one: Path, other: Path) -> bool:
    return os.path.samestat(one.lstat(), other.lstat())
