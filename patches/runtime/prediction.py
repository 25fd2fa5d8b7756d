"""Prediction on several ranks: each predicts some of the batches of one process, and all get the results of all.

Every rank predicts on one device, as one process does. Where the ranks make the same call, rank r of N predicts the
batches r, r + N, ... with the series that one process has in them, and receives the others through the store of the
process group (`meetings`). Else each rank predicts all of them. Either way it returns what one process returns, bit for
bit: a batch is computed by the same operations, with the same weights, on the same number of threads.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import SequentialSampler, Subset

from . import compat, meetings, placement
from .ranks import RankGroup, current_group

# What may differ between ranks that predict the same: where they run, what they have logged, and the mode that an error
# has left; a trainer sets the mode
RANK_ATTRIBUTES = (
    *("trainer_kwargs", "train_trajectories", "valid_trajectories", "validation_step_outputs", "metrics"),
    "training",
)
PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.Size)


def predict(
    trainer: Any, model: Any, datamodule: Any, group: Optional[RankGroup] = None, clock: Any = time
) -> Optional[list[Any]]:
    """What `trainer.predict(model, datamodule=datamodule)` returns, with the batches shared among the ranks.

    They are shared if all ranks make the same call, within `meetings.MEETING_SECONDS`; see `meetings.attend`. No
    collective call is used, and a rank that fails or ends leaves no other waiting. Raises what `trainer.predict` raises
    on this rank.
    """
    group = _ranks_of(trainer, model, group)
    if group is None:
        return _predict_all(trainer, model, datamodule)
    batches = _list_batches(trainer, model, datamodule)
    is_shared = len(batches) > 1 and not meetings.draws(group, _name_of(model))
    token = _digest(trainer, model, datamodule) if is_shared else ""
    call = meetings.attend(group, token, clock)
    if call is None:
        return _predict_all(trainer, model, datamodule)
    return _predict_shared(trainer, model, datamodule, batches, call)


def _ranks_of(trainer: Any, model: Any, group: Optional[RankGroup]) -> Optional[RankGroup]:
    """The ranks that predict a model; None where its trainer predicts on several devices, or it is for one."""
    if trainer.world_size > 1 or not placement.single_device_changes(model.trainer_kwargs):
        return None
    return current_group() if group is None else group


def _predict_all(trainer: Any, model: Any, datamodule: Any) -> Optional[list[Any]]:
    outputs: Optional[list[Any]] = trainer.predict(model, datamodule=datamodule)
    return outputs


def _predict_shared(
    trainer: Any, model: Any, datamodule: Any, batches: Sequence[range], call: meetings.SharedCall
) -> Optional[list[Any]]:
    """The outputs of all batches, of which this rank predicts its share, and what the others fail to deliver."""
    before = _random_states()
    share = range(call.rank, len(batches), call.world_size)
    # A rank without a batch of its own predicts one all the same, for what a prediction does besides
    own = share or range(call.rank % len(batches), call.rank % len(batches) + 1)
    watch = _RandomWatch()
    with call.heartbeat():
        outputs = _predict_some(trainer, model, datamodule, batches, own, watch)
        if watch.has_drawn:
            call.mark_draws(_name_of(model))
            call.publish(meetings.Part((), "draws"))
        else:
            call.publish(meetings.Part([_compact(output) for output in outputs] if share else []))
    found = dict(zip(own, outputs))
    problems = {"draws"} if watch.has_drawn else set()
    for rank in call.others:
        part = call.receive(rank)
        problems.add(part.problem)
        found.update(zip(range(rank, len(batches), call.world_size), part.values))
    missing = [number for number in range(len(batches)) if number not in found]
    if missing and "draws" not in problems:
        after = _random_states()
        found.update(zip(missing, _predict_some(trainer, model, datamodule, batches, missing, watch)))
        _set_random_states(after)
    if watch.has_drawn or "draws" in problems:
        _set_random_states(before)
        return _predict_all(trainer, model, datamodule)
    return [found[number] for number in range(len(batches))]


def _predict_some(
    trainer: Any, model: Any, datamodule: Any, batches: Sequence[range], numbers: Sequence[int], watch: _RandomWatch
) -> list[Any]:
    """The outputs of these batches, by the trainer and the loader that predict all of them."""
    dataset = datamodule.dataset
    datamodule.dataset = Subset(dataset, [index for number in numbers for index in batches[number]])
    trainer.callbacks.append(watch)
    try:
        outputs = trainer.predict(model, datamodule=datamodule)
    finally:
        trainer.callbacks.remove(watch)
        datamodule.dataset = dataset
    if outputs is None or len(outputs) != len(numbers):
        raise KeyboardInterrupt  # which Lightning has caught
    return list(outputs)


def _list_batches(trainer: Any, model: Any, datamodule: Any) -> list[range]:
    """The series of each batch of one process, by their places in the dataset; none where they cannot be shared.

    They cannot where a prediction is known to draw random numbers, as the stream would be another one; and where the
    user has callbacks or hooks that see every batch, or a limit on them.
    """
    if getattr(model.loss, "is_distribution_output", False) or trainer.limit_predict_batches != 1.0:
        return []
    if _has_predict_hooks(model, pl.LightningModule):
        return []
    own = [each for each in trainer.callbacks if not isinstance(each, compat.default_callback_classes())]
    if any(_has_predict_hooks(callback, pl.Callback) for callback in own):
        return []
    loader = datamodule.predict_dataloader()
    if not isinstance(getattr(loader, "sampler", None), SequentialSampler) or not loader.batch_size:
        return []
    n_series, size = len(datamodule.dataset), loader.batch_size
    return [range(number * size, min((number + 1) * size, n_series)) for number in range(len(loader))]


def _has_predict_hooks(instance: object, base: type) -> bool:
    """Whether a callback or a model has code of its own that Lightning calls during a prediction."""
    names = [name for name in dir(base) if name.startswith("on_predict_")]
    return any(getattr(type(instance), name) is not getattr(base, name) for name in names)


def _name_of(model: Any) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _compact(output: Any) -> Any:
    """An output without the memory that a view of it would take along when it is pickled."""
    return output.clone() if isinstance(output, torch.Tensor) else output


class _RandomWatch(pl.Callback):
    """Sees whether the prediction of a batch draws random numbers."""

    def __init__(self) -> None:
        self.has_drawn = False
        self._before: list[Any] = []

    def on_predict_batch_start(self, *_: Any) -> None:
        self._before = _random_states()

    def on_predict_batch_end(self, *_: Any) -> None:
        pairs = zip(self._before, _random_states())
        self.has_drawn = self.has_drawn or not all(_is_equal(*pair) for pair in pairs)


def _random_states() -> list[Any]:
    """The states of the generators that a model may draw from: Python, numpy, torch, and the GPU in use."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    states = [random.getstate(), ("MT19937", keys, position, has_gauss, gauss), torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else states  # type: ignore[no-untyped-call]


def _set_random_states(states: Sequence[Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if len(states) > 3:
        torch.cuda.set_rng_state(states[3])


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return all(np.array_equal(*pair) for pair in zip(one, other))
    return bool(one == other)


def _digest(trainer: Any, model: Any, datamodule: Any) -> str:
    """A text that is equal on two ranks if they predict the same: one model, of one data set, with the same arguments.

    That is the weights and the values, not only their shapes; the options of the model and of its layers and losses;
    and what the bits depend on besides. An empty text where the data set has what cannot be compared.
    """
    digest = hashlib.sha256()
    device = trainer.strategy.root_device.type
    try:
        _add(digest, (_name_of(model), str(trainer.precision), device, torch.get_num_threads()))
        for module in model.modules():
            _add(digest, (type(module).__qualname__, dict(_options_of(module))))
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            _add(digest, (name, tensor))
        _add(digest, dict(_options_of(datamodule)))
        dataset = datamodule.dataset
        _add(digest, (type(dataset).__qualname__, vars(dataset)))
        for file in getattr(dataset, "files_ds", ()):
            _add(digest, _sizes_in(file))
    except TypeError:
        return ""
    return digest.hexdigest()


def _options_of(instance: Any) -> Iterator[tuple[str, Any]]:
    """The public attributes of a module or a data module that are plain values, or collections of these.

    Tensors are not among them: those that are no parameters or buffers are what the last batch has left behind.
    """
    for name, value in sorted(vars(instance).items()):
        if not name.startswith("_") and name not in RANK_ATTRIBUTES and _is_plain(value):
            yield name, value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _is_plain(list(value.items()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (*PLAIN_TYPES, np.ndarray))


def _sizes_in(folder: Any) -> list[tuple[str, int]]:
    """The files in a folder that holds a series, with their sizes."""
    return [(entry.name, entry.stat().st_size) for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)]


def _add(digest: Any, value: Any) -> None:
    """Add a value to the digest. Raises TypeError for what has no bytes of its own."""
    digest.update(f"{type(value).__name__} ".encode())
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, PLAIN_TYPES):
        digest.update(f"{value!r} ".encode())
    elif isinstance(value, Mapping):
        _add(digest, sorted(value.items()))
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} ".encode())
        for each in value:
            _add(digest, each)
    elif hasattr(value, "__array__"):  # of numpy, pandas or polars
        _add_array(digest, np.asarray(value))
    else:
        raise TypeError(f"{type(value).__name__} cannot be compared between ranks.")


def _add_array(digest: Any, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.kind in "OMm":  # objects and times have no buffer of their values
        _add(digest, [str(each) for each in array.ravel()])
        return
    digest.update(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
