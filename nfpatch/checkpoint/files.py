"""The files that hold saved models: which ones a path names, and how a group of them is replaced, all or none.

Everything is made in a folder beside the models first. It begins with a dot and is a folder, and what is kept ends in
`.nfpatch-backup`: `NeuralForecast.load`, which takes every file that ends in `.ckpt` or `.safetensors`, sees neither.
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

from nfpatch.errors import EnvironmentProblem, Refused, UsageError, as_problem
from nfpatch.installs.disk import copy_owner, flush_folder, link_or_copy

SUFFIXES = (".ckpt", ".safetensors")
# What neuralforecast 3.3.0 saves beside the models, in the format of the models.
NO_MODELS = ("dataset.safetensors", "configuration.safetensors")
STAGING_PREFIX = ".nfpatch-migrate-"
BACKUP_SUFFIX = ".nfpatch-backup"


@dataclass(frozen=True)
class ModelFile:
    """A file that may hold a model.

    `claimed` is the class that the user or the folder says it holds, `suggested` are those that its name may stand for.
    `group` is the path that the user named: the files of a folder are loaded, and so migrated, together.
    """

    path: Path
    group: Path
    claimed: Optional[str] = None
    suggested: tuple[str, ...] = ()


def model_files(path: Path, model: Optional[str] = None) -> tuple[ModelFile, ...]:
    """The model files of a folder that `NeuralForecast.save` wrote, or the one file; all of class `model`, if given.

    Raises UsageError where there is nothing at the path, Refused for a folder without models, and EnvironmentProblem
    where it cannot be looked at.
    """
    if not os.path.exists(path):
        raise UsageError(f"There is no {path}. Name a folder that NeuralForecast.save wrote, or a model file.")
    if not path.is_dir():
        if not path.is_file():
            raise Refused(f"{path} is neither a file nor a folder. The models are files.")
        return (ModelFile(path, path, model or _aliases(path.parent).get(_alias(path)), _suggested(path)),)
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}. Run as a user who may.") from error
    files = [path / name for name in names if name.endswith(SUFFIXES) and name not in NO_MODELS]
    aliases = _aliases(path)
    found = tuple(
        ModelFile(file, path, model or aliases.get(_alias(file)), _suggested(file)) for file in files if file.is_file()
    )
    if not found:
        raise Refused(
            f"{path} holds no saved models: no file in it ends in {' or '.join(SUFFIXES)}. Name a folder that "
            "NeuralForecast.save wrote, or a model file."
        )
    return found


def _alias(file: Path) -> str:
    """The model's name in the name of its file, `TFT` for `TFT_0.ckpt`."""
    return file.stem.rpartition("_")[0]


def _suggested(file: Path) -> tuple[str, ...]:
    """The classes that the name of a file may stand for; releases before 1.7.1 look at its first part only."""
    names = dict.fromkeys((_alias(file), file.stem.partition("_")[0]))
    return tuple(name for name in names if name)


def _aliases(folder: Path) -> dict[str, str]:
    """Alias -> class of the models in a folder, as neuralforecast wrote it down; empty where it did not.

    The files are not trusted: of the pickle no more is taken than a dictionary of texts, and a broken one says
    nothing.
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
    """Reads nothing but plain data."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left in a folder of models, if that can be done."""
    if any(folder.glob(f"{STAGING_PREFIX}*")):
        with suppress(EnvironmentProblem), staging_folder(folder):
            pass


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A folder for new files inside `folder`, gone afterwards with whatever is in it; also what killed runs left.

    Raises EnvironmentProblem where `folder` cannot be written into, or another nfpatch is at work there.
    """
    with _locked(folder) as alone:
        if alone:
            for left in folder.glob(f"{STAGING_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
        try:
            staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
        except OSError as error:
            raise EnvironmentProblem(
                f"{folder} cannot be written into: {error.strerror}. Nothing was changed. Run as the owner of the "
                "models, or migrate a copy of them."
            ) from error
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which leaves nothing behind. Tells whether such a lock is to be had here."""
    import fcntl

    with ExitStack() as stack:
        is_locked = False
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(_close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError as error:
            raise EnvironmentProblem(
                f"Another nfpatch migrates the models of {folder}. Run the command again when it has ended."
            ) from error
        except OSError:  # no such locks on this file system
            pass
        yield is_locked


def _close(descriptor: int) -> None:
    with suppress(OSError):  # what matters is done by then
        os.close(descriptor)


@dataclass(frozen=True)
class Replacement:
    """A file, what it was when it was judged, and the new one for its place."""

    path: Path
    seen: os.stat_result
    new: Path


def replace_all(replacements: Sequence[Replacement], staging: Path, keep: bool) -> tuple[Optional[Path], ...]:
    """Put each new file in its place, with the mode and owner of the old one: all or none, unless the process dies.

    With `keep` the old files stay beside the new ones, and their paths are returned. Raises Refused where a file was
    changed after it was judged and EnvironmentProblem where the system refuses; nothing is changed then.
    """
    folder = staging.parent
    for replacement in replacements:
        if _identity(os.stat(replacement.path)) != _identity(replacement.seen):
            raise Refused(f"{replacement.path} was changed while it was being migrated. Run the command again.")
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
        raise as_problem(error) from error
    return tuple(kept)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _backup_of(path: Path) -> Path:
    """The first name beside a file that is free, or that a killed run gave to this very file."""
    names = (f"{path.name}{BACKUP_SUFFIX}{'' if number == 1 else f'-{number}'}" for number in count(1))
    candidates = (path.with_name(name) for name in names)
    return next(backup for backup in candidates if not os.path.lexists(backup) or _is_same(backup, path))


def _is_same(one: Path, other: Path) -> bool:
    return os.path.samestat(one.lstat(), other.lstat())
