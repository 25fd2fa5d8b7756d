"""Prediction on several ranks: each predicts some of the batches of one process, and all get the results of all.

Every rank predicts on one device, as one process does. If the ranks make the same call, rank r of N predicts the parts
r, r + N, ... and receives the others through the store of the process group (`meetings`). Otherwise each rank predicts
all of them. A part is a batch of one process, with the same series; in `predict_insample` from 3.0.0 on it is a series.
In both cases the results are bit-identical to those of one process: a part is computed by the same operations, with the
same weights, on the same number of threads.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import SequentialSampler, Subset

from . import compat, meetings, placement
from .digests import class_name, compute_digest, plain_options
from .ranks import RankGroup, current_group

# The attribute by which `predict` recognizes a dataset of one series that `share_series` has yielded
WATCH = "_nfpatch_watch"


def predict(
    trainer: Any, model: Any, datamodule: Any, group: Optional[RankGroup] = None, clock: Any = time
) -> Optional[list[Any]]:
    """The result of `trainer.predict(model, datamodule=datamodule)`, with the batches shared among the ranks.

    They are shared if all ranks make the same call, within `meetings.MEETING_SECONDS`; see `meetings.attend`. No
    collective call is used, and no rank hangs if another one fails or exits. Raises what `trainer.predict` raises
    on this rank.
    """
    watch = getattr(datamodule.dataset, WATCH, None)
    if watch is not None:
        return _predict_watched(trainer, model, datamodule, watch)
    group = _ranks_of([model], group)
    if group is None or trainer.world_size > 1:
        return _predict_all(trainer, model, datamodule)
    batches = _list_batches(trainer, model, datamodule)
    token = ""
    if len(batches) > 1 and _can_share(model, trainer.callbacks, group):
        device = trainer.strategy.root_device.type
        options = plain_options(datamodule)
        token = compute_digest([model], [datamodule.dataset], str(trainer.precision), device, options)
    call = meetings.attend(group, token, clock)
    if call is None:
        return _predict_all(trainer, model, datamodule)
    watch = _RandomWatch()
    outputs: dict[int, Any] = {}
    for numbers in _share(call, len(batches), outputs, watch):
        outputs.update(zip(numbers, _predict_some(trainer, model, datamodule, batches, numbers, watch)))
    return [outputs[number] for number in range(len(batches))]


def share_series(
    models: Sequence[Any],
    datasets: Sequence[Any],
    results: MutableSequence[Any],
    step_size: int,
    quantiles: Any = None,
    group: Optional[RankGroup] = None,
    clock: Any = time,
) -> Iterator[tuple[int, Any]]:
    """Yield like `enumerate(datasets)`, for the datasets (of one series each) that this rank predicts.

    The body of the loop predicts the series by all models and appends one result to `results`, which has the results
    of all series at the end of the loop. They are shared like the batches of `predict`, with one synchronization for
    the whole loop. The other ranks learn of an error in the body as soon as this generator is closed, which CPython
    does when it leaves the loop.
    """
    models = [_trained_model(model) for model in models]
    group = _ranks_of(models, group)
    if group is None:
        yield from enumerate(datasets)
        return
    token = ""
    if len(datasets) > 1 and all(_can_share(model, _own_callbacks(model), group) for model in models):
        precisions = [str(model.trainer_kwargs.get("precision")) for model in models]
        token = compute_digest(models, datasets, precisions, torch.cuda.is_available(), step_size, quantiles)
    watch = _RandomWatch()
    call = meetings.attend(group, token, clock)
    with _mark(datasets, watch):
        if call is None:
            yield from enumerate(datasets)
            return
        found: dict[int, Any] = {}
        for numbers in _share(call, len(datasets), found, watch):
            for number in numbers:
                yield number, datasets[number]
                found[number] = results.pop()
        results.extend(found[number] for number in range(len(datasets)))


@contextmanager
def _mark(datasets: Iterable[Any], watch: _RandomWatch) -> Iterator[None]:
    """Mark these datasets for `predict` within the block; 3.0.0 has the same ones for each model."""
    for dataset in datasets:
        setattr(dataset, WATCH, watch)
    try:
        yield
    finally:
        for dataset in datasets:
            delattr(dataset, WATCH)


def _ranks_of(models: Iterable[Any], group: Optional[RankGroup]) -> Optional[RankGroup]:
    """The ranks that predict these models; None if one of them is for one device."""
    if not all(placement.single_device_changes(model.trainer_kwargs) for model in models):
        return None
    return current_group() if group is None else group


def _trained_model(model: Any) -> Any:
    """The model that predicts: the one inside an Auto model or HINT. TimesNet and PatchTST have layers of that name."""
    own = getattr(model, "model", None)
    return own if isinstance(own, pl.LightningModule) else model


def _share(
    call: meetings.SharedCall, n_parts: int, found: dict[int, Any], watch: _RandomWatch
) -> Iterator[Sequence[int]]:
    """Yield the numbers of parts that this rank must compute, until `found` has the results of all.

    The caller adds their results to `found` before it continues. First come the parts of this rank, then those that the
    others do not deliver; and if a part has drawn random numbers, all parts, from the initial random state.
    """
    before = _random_states()
    share = range(call.rank, n_parts, call.world_size)
    # A rank without a part of its own computes one anyway, for the side effects of a prediction
    own = share or range(call.rank % n_parts, call.rank % n_parts + 1)
    with call.heartbeat():
        yield own
        for name in watch.drawn_by:
            call.mark_draws(name)
        if watch.drawn_by:
            call.publish(meetings.Part((), "draws"))
        else:
            call.publish(meetings.Part([_compact(found[number]) for number in share]))
    has_drawn = bool(watch.drawn_by)
    for rank in call.others:
        part = call.receive(rank)
        has_drawn = has_drawn or part.problem == "draws"
        found.update(zip(range(rank, n_parts, call.world_size), part.values))
    missing = [number for number in range(n_parts) if number not in found]
    if missing and not has_drawn:
        after = _random_states()
        yield missing
        _set_random_states(after)
    if has_drawn or watch.drawn_by:
        _set_random_states(before)
        yield range(n_parts)


def _predict_all(trainer: Any, model: Any, datamodule: Any) -> Optional[list[Any]]:
    outputs: Optional[list[Any]] = trainer.predict(model, datamodule=datamodule)
    return outputs


def _predict_watched(trainer: Any, model: Any, datamodule: Any, watch: _RandomWatch) -> Optional[list[Any]]:
    trainer.callbacks.append(watch)
    try:
        return _predict_all(trainer, model, datamodule)
    finally:
        trainer.callbacks.remove(watch)


def _predict_some(
    trainer: Any, model: Any, datamodule: Any, batches: Sequence[range], numbers: Sequence[int], watch: _RandomWatch
) -> list[Any]:
    """The outputs of these batches, with the trainer and the loader that predict all of them."""
    dataset = datamodule.dataset
    datamodule.dataset = Subset(dataset, [index for number in numbers for index in batches[number]])
    try:
        outputs = _predict_watched(trainer, model, datamodule, watch)
    finally:
        datamodule.dataset = dataset
    if outputs is None or len(outputs) != len(numbers):
        raise KeyboardInterrupt  # Lightning has caught it
    return list(outputs)


def _list_batches(trainer: Any, model: Any, datamodule: Any) -> list[range]:
    """The series of each batch of one process, by their indices in the dataset; empty if the loader has others."""
    loader = datamodule.predict_dataloader()
    is_sequential = isinstance(getattr(loader, "sampler", None), SequentialSampler) and loader.batch_size
    if not is_sequential or trainer.limit_predict_batches != 1.0:
        return []
    n_series, size = len(datamodule.dataset), loader.batch_size
    return [range(number * size, min((number + 1) * size, n_series)) for number in range(len(loader))]


def _can_share(model: Any, callbacks: Iterable[Any], group: RankGroup) -> bool:
    """Whether the parts of a prediction may be computed on different ranks.

    They may not if it is known to draw random numbers, as these would differ; nor if the user has callbacks or hooks
    that are called for every batch.
    """
    if getattr(model.loss, "is_distribution_output", False) or meetings.has_drawn(group, class_name(model)):
        return False
    own = [each for each in callbacks if not isinstance(each, compat.default_callback_classes())]
    hooks = [_has_predict_hooks(callback, pl.Callback) for callback in own]
    return not any([_has_predict_hooks(model, pl.LightningModule), *hooks])


def _own_callbacks(model: Any) -> list[Any]:
    """The callbacks that the user passed to a model, as a list or a single one."""
    callbacks = model.trainer_kwargs.get("callbacks") or []
    return [callbacks] if isinstance(callbacks, pl.Callback) else list(callbacks)


def _has_predict_hooks(instance: object, base: type) -> bool:
    """Whether a callback or a model overrides a hook that Lightning calls during a prediction."""
    names = [name for name in dir(base) if name.startswith("on_predict_")]
    return any(getattr(type(instance), name) is not getattr(base, name) for name in names)


def _compact(output: Any) -> Any:
    """An output without unused memory, which pickling a view of it would include."""
    return output.clone() if isinstance(output, torch.Tensor) else output


class _RandomWatch(pl.Callback):
    """Detects which models draw random numbers when they predict a batch."""

    def __init__(self) -> None:
        self.drawn_by: set[str] = set()
        self._before: list[Any] = []

    def on_predict_batch_start(self, *_: Any) -> None:
        self._before = _random_states()

    def on_predict_batch_end(self, trainer: Any, model: Any, *_: Any) -> None:
        if not all(map(_is_equal, self._before, _random_states())):
            self.drawn_by.add(class_name(model))


def _random_states() -> list[Any]:
    """The states of the random generators that a model may use: Python, numpy, torch, and the GPU in use."""
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
