"""Which windows and which series a rank trains on.

All ranks draw the same random numbers. So a rank can draw for all of them and take its share, without communication. In
one process each function draws what the unpatched source draws.
"""

from __future__ import annotations

from typing import Any, Optional, TypeVar

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from . import compat

Windows = TypeVar("Windows", bound=torch.Tensor)


def draw_windows(model: Any, n_windows: int) -> np.ndarray[Any, Any]:
    """The indices of `windows_batch_size` out of `n_windows` windows of a univariate model, drawn by numpy.

    If several ranks have the same series, they get different windows of them: each takes its share of
    `windows_batch_size` windows for every rank. Nothing is communicated.
    """
    return _draw_share(n_windows, model.windows_batch_size, *_ranks_with_same_series(model))


def draw_on_device(model: Any, n_windows: int, device: torch.device) -> torch.Tensor:
    """The indices of `windows_batch_size` out of `n_windows` windows of a model, drawn by torch.

    Like `draw_windows`, for releases from 3.1.4 on, which draw on the device of the windows. The windows of a
    multivariate model are already sharded.
    """
    rank, n_ranks = _ranks_with_same_series(model)
    n_drawn = model.windows_batch_size * n_ranks
    if n_windows < n_drawn:
        indices = torch.randint(0, n_windows, size=(n_drawn,), device=device)
    else:
        indices = torch.randperm(n_windows, device=device)[:n_drawn]
    return indices[rank::n_ranks]


def draw_start(model: Any, n_starts: int) -> int:
    """The first time step, below `n_starts`, that a recurrent model up to 2.0.1 trains on.

    If several ranks have the same series, each takes another start. Nothing is communicated.
    """
    rank, n_ranks = _ranks_with_same_series(model)
    starts = [np.random.choice(n_starts) for _ in range(n_ranks)]
    return int(starts[rank])


def draw_windows_of_all_series(model: Any, n_windows: int) -> np.ndarray[Any, Any]:
    """The indices of `batch_size` out of `n_windows` windows of a multivariate model up to 2.0.1.

    Every rank has all series, so the ranks draw different windows: each takes its share of `batch_size` windows for
    every rank. Nothing is communicated.
    """
    return _draw_share(n_windows, model.batch_size, *_all_ranks(model))


def shard_windows(model: Any, windows: Windows) -> Windows:
    """The windows of a multivariate model that this rank trains on; all of them for any other model.

    Fewer windows than ranks are not sharded, because each rank needs at least one. Nothing is communicated.
    """
    if not model.MULTIVARIATE:
        return windows
    rank, n_ranks = _all_ranks(model)
    if n_ranks == 1 or len(windows) < n_ranks:
        return windows
    return windows[rank::n_ranks]  # type: ignore[return-value]


def train_sampler(datamodule: Any) -> Optional[DistributedSampler[Any]]:
    """A sampler that gives every rank all series of a multivariate model in one order; None for any other training.

    If the data module shuffles, the order depends on the model's `random_seed` and the epoch, not on the rank's random
    state. None in one process, too. Nothing is communicated.
    """
    trainer = datamodule.trainer
    if trainer is None or trainer.world_size == 1 or not trainer.lightning_module.MULTIVARIATE:
        return None
    seed = trainer.lightning_module.random_seed
    return sample_everything(datamodule.dataset, shuffle=datamodule.shuffle_train, seed=seed)


def sample_everything(dataset: Any, shuffle: bool, seed: int = 0) -> DistributedSampler[Any]:
    """A sampler of the whole dataset on every rank, which Lightning does not replace.

    Lightning shards a dataset by a `DistributedSampler`, unless its loader already has one.
    """
    return DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)


def _draw_share(n_windows: int, size: int, rank: int, n_ranks: int) -> np.ndarray[Any, Any]:
    """Draw this number of windows for each of `n_ranks` ranks, and return those of one rank."""
    n_drawn = size * n_ranks
    indices: np.ndarray[Any, Any] = np.random.choice(n_windows, size=n_drawn, replace=(n_windows < n_drawn))
    return indices[rank::n_ranks]


def _all_ranks(model: Any) -> tuple[int, int]:
    """The rank and the world size of the training; 0 and 1 without a trainer."""
    trainer = compat.attached_trainer(model)
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def _ranks_with_same_series(model: Any) -> tuple[int, int]:
    """The rank and the number of ranks that may have the same series; 0 and 1 if each rank has its own.

    They may if there are more ranks than series, or if the loader does not shard the series: Lightning's does, unless
    the trainer gets `use_distributed_sampler=False`, and so does a user's distributed sampler. On Spark each rank has
    its own files. Multivariate models shard their windows.
    """
    trainer = compat.attached_trainer(model)
    is_multivariate = getattr(model, "MULTIVARIATE", False)
    if trainer is None or trainer.datamodule is None or is_multivariate:
        return 0, 1
    rank, n_ranks = _all_ranks(model)
    if trainer.datamodule.dataset.n_groups < n_ranks:
        return rank, n_ranks
    is_sharded = compat.has_files_of_rank(trainer.datamodule) or _shards_series(compat.train_loader(trainer))
    return (0, 1) if is_sharded else (rank, n_ranks)


def _shards_series(loader: Any) -> bool:
    """Whether a loader has a part of the series: one of its samplers has replicas, like `DistributedSampler`.

    If there is no loader, Lightning's is assumed, which shards them.
    """
    if loader is None:
        return True
    batches = loader.batch_sampler
    samplers = (loader.sampler, batches, getattr(batches, "sampler", None))
    return any(getattr(sampler, "num_replicas", 1) > 1 for sampler in samplers)
