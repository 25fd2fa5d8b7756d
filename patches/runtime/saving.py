"""Saving on several ranks: every rank writes the same files, and none waits for another.

A script may save on all ranks or on one; so saving makes no collective call. Each rank writes its files below a path of
its own and then renames them into place, whole, over those of the other ranks, which are the same.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Optional

import pytorch_lightning as pl

from . import compat
from .ranks import RankGroup, current_group

# The names of the folders into which ranks write before they move the files into place
TMP_PREFIX = ".saving-"


def save_from_all_ranks(
    forecaster: Any,
    path: str,
    model_index: Optional[list[int]],
    save_dataset: bool,
    overwrite: bool,
    clears_folder: bool = True,
    group: Optional[RankGroup] = None,
) -> bool:
    """Save a forecaster as one of several ranks; False if upstream's own code has to save, for there is one process.

    Calls `forecaster.save` for a temporary folder, for which it returns False. With `overwrite` the folder is cleared
    of all other files, which upstream does from 1.7.1 on (`clears_folder`). Keys of the store, below
    `neuralforecast/save/FOLDER/N/` for the N-th call of a rank: `arrived` counts the ranks of a call, `was_empty` is
    what the first of them found. Raises Exception, as upstream does, if the folder has files that are not to be
    overwritten.
    """
    import fsspec  # type: ignore[import-untyped]
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

    group = current_group() if group is None else group
    if group is None or os.path.basename(path).startswith(TMP_PREFIX):
        return False
    fs, folder = fsspec.core.url_to_fs(path)
    existing = _list_folder(fs, folder)
    try:
        was_empty = _was_empty(group, folder, not existing)
    except RuntimeError:
        # The process that holds the store has ended: its files are not to be touched
        if existing and not overwrite:
            return True
        was_empty = not existing
    if not was_empty and not overwrite:
        raise Exception("Directory is not empty. Set `overwrite=True` to overwrite files.")

    fs.makedirs(folder, exist_ok=True)
    is_local = isinstance(fs, LocalFileSystem)
    with tempfile.TemporaryDirectory(prefix=TMP_PREFIX, dir=folder if is_local else None) as tmp_path:
        forecaster.save(tmp_path, model_index, save_dataset)
        files = os.listdir(tmp_path)
        for file in files:
            if is_local:
                os.replace(os.path.join(tmp_path, file), os.path.join(folder, file))
            else:
                fs.put_file(os.path.join(tmp_path, file), f"{folder}/{file}")
    if overwrite and clears_folder:
        _remove(fs, [existing[name] for name in existing.keys() - set(files)])
    return True


def save_local_files(
    forecaster: Any,
    path: str,
    model_index: Optional[list[int]],
    save_dataset: bool,
    overwrite: bool,
    group: Optional[RankGroup] = None,
) -> bool:
    """Like `save_from_all_ranks`, for releases up to 1.6.4.

    There a path is one of this machine, be it `s3://bucket`, and other files stay in the folder.
    """
    return save_from_all_ranks(
        forecaster, os.path.abspath(path), model_index, save_dataset, overwrite, clears_folder=False, group=group
    )


@contextmanager
def open_atomic(path: Any, group: Optional[RankGroup] = None) -> Iterator[IO[bytes]]:
    """A file to write bytes to; on several ranks it is renamed to `path` once it is whole.

    Uses no store and no collective call. A path with a protocol (`s3://...`) is opened as it is.
    """
    import fsspec

    group = current_group() if group is None else group
    if group is None or "://" in str(path):
        with fsspec.open(path, "wb") as file:
            yield file
        return
    tmp_path = f"{path}.{group.rank}"
    try:
        with fsspec.open(tmp_path, "wb") as file:
            yield file
        os.replace(tmp_path, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(tmp_path)
        raise


def save_checkpoint(model: Any, path: str, group: Optional[RankGroup] = None) -> None:
    """Write Lightning's checkpoint of a model that has been trained.

    On several ranks Lightning writes it on rank 0 and lets the others wait; here every rank writes it. After a fit
    whose processes have ended, no trainer is left, and a new one writes it. Uses no store and no collective call.
    """
    trainer = compat.attached_trainer(model)
    if trainer is None and model.trainer_kwargs.get("devices", 1) == 1:
        trainer = model.trainer  # raises, or is None, as without the patch
    elif trainer is None:
        trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        trainer.strategy.connect(model)
    group = current_group() if group is None else group
    if group is None or "://" in path:
        trainer.save_checkpoint(path)
        return
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    tmp_path = f"{path}.{group.rank}"
    trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, tmp_path)
    os.replace(tmp_path, path)


def _list_folder(fs: Any, folder: str) -> dict[str, str]:
    """The paths of what is in a folder by name, without the temporary folders of other ranks."""
    paths = fs.ls(folder, detail=False) if fs.exists(folder) else []
    by_name = {path.rstrip("/").split("/")[-1]: path for path in paths}
    return {name: path for name, path in by_name.items() if not name.startswith(TMP_PREFIX)}


def _was_empty(group: RankGroup, folder: str, is_empty: bool) -> bool:
    """Whether the folder was empty when the first rank came to save there.

    What a later rank finds in it may be the files of that one. Raises RuntimeError if the store is gone.
    """
    call = group.next_call(f"neuralforecast/save/{folder}")
    if call.store.add("arrived", 1) == 1:
        call.publish("was_empty", is_empty)
    return bool(call.receive("was_empty"))


def _remove(fs: Any, paths: list[str]) -> None:
    """Remove what an older save has left; another rank may have been faster."""
    for path in paths:
        with suppress(FileNotFoundError):
            fs.rm(path, recursive=True)
