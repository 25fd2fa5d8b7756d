"""Saving on several ranks: the first rank of a node writes, and later ones wait until the files are complete.

A script may save on all ranks or on any one; so saving makes no collective call, and the first rank does not wait. It
writes to a temporary folder and then renames the complete files into place, over equal files of other nodes that write
to the same disk. The store determines which rank is the first.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Optional

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from . import compat
from .ranks import RankGroup, current_group, to_picklable

# The names of the temporary folders into which ranks write
TMP_PREFIX = ".saving-"
# The seconds that a rank waits for the one that writes, before it writes itself
DEADLINE = 120.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Keys of the store, below `neuralforecast/save/FOLDER/N`
N_ARRIVED = "arrived"
WAS_EMPTY = "was_empty"
N_LISTED = "listed"
# ... and below `DISK/CONTENT/ATTEMPT` there
N_WRITERS = "writers"
RESULT = "result"
N_RESULTS = "results"


def is_left_to_rank_0() -> bool:
    """Whether only rank 0 saves, and this is another one: upstream's rule from 3.1.5 on, if the ranks have no store.

    They have none with MPI, or if a test has replaced `is_initialized` and `get_rank`. Uses no store
    and no collective call.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0:
        return False
    return not _has_store(current_group())


def save_from_all_ranks(
    forecaster: Any,
    path: str,
    model_index: Optional[list[int]],
    save_dataset: bool,
    overwrite: bool,
    clears_folder: bool = True,
    group: Optional[RankGroup] = None,
) -> bool:
    """Save a forecaster on several ranks; False if upstream's own code must save, as in one process.

    The first rank of a node with this content writes: it calls `forecaster.save` for a temporary folder, for which this
    function returns False. The others wait up to `DEADLINE` seconds for it. With `overwrite` the folder is
    cleared of all other files, which upstream does from 1.7.1 on (`clears_folder`). Keys of the store, below
    `neuralforecast/save/FOLDER/N/` for the N-th call of a rank: `arrived` counts the ranks of a call, `was_empty` is
    what the first of them found, `listed` shows that it can be read; those of `_write_once` are below
    `DISK/CONTENT/ATTEMPT/`. Raises Exception, as upstream does, if the folder has files and `overwrite` is false.
    """
    import fsspec  # type: ignore[import-untyped]
    from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

    group = current_group() if group is None else group
    if group is None or not _has_store(group) or os.path.basename(path).startswith(TMP_PREFIX):
        return False
    fs, folder = fsspec.core.url_to_fs(path)
    existing = _list_folder(fs, folder)
    call: Optional[RankGroup] = None
    try:
        call = group.next_call(f"neuralforecast/save/{folder}")
        was_empty = _was_empty(call, not existing)
    except RuntimeError:
        # The process that holds the store has exited: its files must not be changed
        if existing and not overwrite:
            return True
        was_empty = not existing
    if not was_empty and not overwrite:
        raise Exception("Directory is not empty. Set `overwrite=True` to overwrite files.")
    fs.makedirs(folder, exist_ok=True)

    def write() -> list[str]:
        files = _write_files(forecaster, fs, folder, model_index, save_dataset)
        if overwrite and clears_folder:
            _remove(fs, [existing[name] for name in existing.keys() - set(files)])
        return files

    if call is None or isinstance(fs, MemoryFileSystem):  # files in memory are rank-local
        write()
    else:
        content = _digest(forecaster, model_index, save_dataset)
        _write_once(call.prefixed(f"{_disk(fs, folder)}/{content}"), write, lambda files: _exist(fs, folder, files))
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

    In these every path is local, even `s3://bucket`, and other files are left in the folder.
    """
    return save_from_all_ranks(
        forecaster, os.path.abspath(path), model_index, save_dataset, overwrite, clears_folder=False, group=group
    )


@contextmanager
def open_atomic(path: Any, group: Optional[RankGroup] = None) -> Iterator[IO[bytes]]:
    """A file to write bytes to; on several ranks it is renamed to `path` when it is complete.

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

    On several ranks Lightning writes it on rank 0 while the others wait; here every rank writes it. After a fit whose
    processes have exited, no trainer is left, and a new one writes it. Uses no store and no collective call.
    """
    trainer = compat.attached_trainer(model)
    if trainer is None and model.trainer_kwargs.get("devices", 1) == 1:
        trainer = model.trainer  # raises or is None, as without the patch
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


def _has_store(group: Optional[RankGroup]) -> bool:
    """Whether there are several ranks with a store, which determines the one that writes."""
    return group is not None and group.store is not None


def _list_folder(fs: Any, folder: str) -> dict[str, str]:
    """The paths in a folder by name, without the temporary folders of ranks."""
    paths = fs.ls(folder, detail=False) if fs.exists(folder) else []
    by_name = {path.rstrip("/").split("/")[-1]: path for path in paths}
    return {name: path for name, path in by_name.items() if not name.startswith(TMP_PREFIX)}


def _was_empty(call: RankGroup, is_empty: bool) -> bool:
    """Whether the folder was empty when the first rank arrived.

    A later rank may find the files of that one in it. Raises RuntimeError if the store is gone.
    """
    if call.store.add(N_ARRIVED, 1) == 1:
        call.publish(WAS_EMPTY, is_empty)
        call.store.add(N_LISTED, 1)
    return bool(call.receive(WAS_EMPTY)) if _wait(call, N_LISTED) else is_empty


def _write_once(group: RankGroup, write: Callable[[], list[str]], exist: Callable[[list[str]], bool]) -> None:
    """Let the first rank write, and return on the others once it has written.

    `write` returns the names of the files, and `exist` returns whether this rank sees them. If it does not, or if the
    rank that writes fails or misses the deadline, the next one writes: a new attempt, for which the other ranks wait in
    turn. Keys of the store, below `ATTEMPT/`: `writers` counts the ranks that would write, `result` has the names of
    the files or the error, `results` shows that it can be read. Raises what `write` raises.
    """
    for attempt in itertools.count(1):
        turn = group.prefixed(str(attempt))
        try:
            if turn.store.add(N_WRITERS, 1) == 1:
                break
            result = turn.receive(RESULT) if _wait(turn, N_RESULTS) else None
        except RuntimeError:  # the process that holds the store has exited
            break
        if isinstance(result, list) and exist(result):
            return
    try:
        files = write()
    except BaseException as error:
        _publish_result(turn, to_picklable(error))
        raise
    _publish_result(turn, files)


def _publish_result(turn: RankGroup, result: object) -> None:
    """Publish the result of an attempt, if the store still exists."""
    with suppress(RuntimeError):
        turn.publish(RESULT, result)
        turn.store.add(N_RESULTS, 1)


def _wait(group: RankGroup, counter: str) -> bool:
    """Wait until a counter of the store is not zero; False if it still is at the deadline.

    Polls it, because a store of torch 1.12 returns wrong answers after a timeout.
    """
    end = time.monotonic() + DEADLINE
    pause = 0.001
    while group.store.add(counter, 0) == 0:
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return True


def _disk(fs: Any, folder: str) -> str:
    """An id of the disk, equal only for ranks that see the same folder, such as the processes of one node.

    It contains the host name and, on Linux, the boot id of the node, but no variables of launchers. Processes of one
    node may be in different containers, so for a local folder it also contains its device and inode, which are equal
    if containers share the folder.
    """
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(BOOT_ID.read_text().strip())
    if isinstance(fs, LocalFileSystem):
        status = os.stat(folder)
        parts.append(f"{status.st_dev}:{status.st_ino}")
    return "/".join(parts)


def _digest(forecaster: Any, model_index: Optional[list[int]], save_dataset: bool) -> str:
    """A digest of the weights and the dataset, equal only for ranks that would write the same files.

    The n-th call of one rank may not match the n-th call of another, if one of them has saved by itself before.
    """
    digest = hashlib.blake2b(repr((model_index, save_dataset)).encode(), digest_size=16)
    for i, model in enumerate(forecaster.models):
        if model_index is None or i in model_index:
            # HINT is not a module itself; it contains the one whose forecasts it reconciles
            module = model if isinstance(model, torch.nn.Module) else model.model
            _update(digest, f"{i} {type(model).__name__}", module.state_dict())
    if save_dataset:
        _update(digest, "dataset", getattr(getattr(forecaster, "dataset", None), "__dict__", {}))
    return digest.hexdigest()


def _update(digest: Any, owner: str, values: Any) -> None:
    """Update a digest with the tensors and the numeric arrays in a mapping."""
    for name in sorted(values):
        value = values[name]
        is_array = isinstance(value, np.ndarray) and value.dtype != object
        if not is_array and not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{owner}.{name} {value.dtype} {tuple(value.shape)}".encode())
        if is_array:
            digest.update(value.tobytes())
        else:
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(memoryview(flat.view(torch.uint8).numpy()))


def _write_files(
    forecaster: Any, fs: Any, folder: str, model_index: Optional[list[int]], save_dataset: bool
) -> list[str]:
    """Write all files into a temporary folder of this rank, move them into place, and return their names."""
    from fsspec.implementations.local import LocalFileSystem

    is_local = isinstance(fs, LocalFileSystem)
    with tempfile.TemporaryDirectory(prefix=TMP_PREFIX, dir=folder if is_local else None) as tmp_path:
        forecaster.save(tmp_path, model_index, save_dataset)
        files = os.listdir(tmp_path)
        for file in files:
            if is_local:
                os.replace(os.path.join(tmp_path, file), os.path.join(folder, file))
            else:
                fs.put_file(os.path.join(tmp_path, file), f"{folder}/{file}")
    return files


def _exist(fs: Any, folder: str, files: list[str]) -> bool:
    """Whether these files exist in the folder, for this process."""
    fs.invalidate_cache()
    return all(fs.exists(f"{folder}/{file}") for file in files)


def _remove(fs: Any, paths: list[str]) -> None:
    """Remove the files of an older save; another rank may have removed them already."""
    for path in paths:
        with suppress(FileNotFoundError):
            fs.rm(path, recursive=True)
