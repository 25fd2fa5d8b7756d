"""The ranks of a distributed run, and the store through which they exchange values without a collective call.

A collective (broadcast, gather, barrier) hangs unless every rank makes the same call. A store does not: a rank may
publish a value that no other rank reads. So everything that a script may do on one rank only uses the store of the
process group.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class RankGroup:
    """The place of this process among the ranks.

    `store` is the key-value store that all ranks share; `prefixed` separates the keys of different uses.
    """

    rank: int
    world_size: int
    store: Any  # torch.distributed.Store (MPI has none), which old releases of torch do not export to type checkers

    def prefixed(self, prefix: str) -> RankGroup:
        """The same ranks, with keys of their own below `prefix`."""
        return RankGroup(self.rank, self.world_size, dist.PrefixStore(prefix, self.store))  # type: ignore[attr-defined]

    def count_call(self, name: str) -> int:
        """Count a call of `name` by this rank, under the key `name/calls/RANK`, and return its number, from 1."""
        return int(self.store.add(f"{name}/calls/{self.rank}", 1))

    def next_call(self, name: str) -> RankGroup:
        """The ranks in this call of `name`, with keys of their own below `name/NUMBER`.

        Each rank counts its calls (`count_call`), so that the n-th calls of all ranks belong together,
        whenever each makes it.
        """
        return self.prefixed(f"{name}/{self.count_call(name)}")

    def publish(self, key: str, value: object) -> None:
        """Set a key to a value, which is pickled."""
        self.store.set(key, pickle.dumps(value))

    def receive(self, key: str) -> Any:
        """The value that some rank publishes under a key.

        Waits up to the store's timeout; then the store raises RuntimeError.
        """
        return pickle.loads(self.store.get(key))


def current_group() -> Optional[RankGroup]:
    """The ranks of torch's default process group; None if there is only this process.

    Uses the store of the process group, and no collective call. None as well if a test has
    replaced `is_initialized` and there is no process group.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.GroupMember.WORLD is None:
        return None
    if dist.get_world_size() == 1:
        return None
    # torch has no public access to the store of the default process group (torch/distributed/distributed_c10d.py)
    store = dist.distributed_c10d._get_default_store()
    return RankGroup(dist.get_rank(), dist.get_world_size(), store)


def group_of_trainer(trainer: Any, group: Optional[RankGroup] = None) -> Optional[RankGroup]:
    """The ranks that train one model together: `group`, or else torch's default process group.

    None if the trainer has one process, even in a process group: a script can start one, and train another model in
    each of its processes.
    """
    if trainer.world_size == 1:
        return None
    return current_group() if group is None else group


def is_multi_process() -> bool:
    """Whether there are several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def to_picklable(error: BaseException) -> BaseException:
    """The error itself if it can be pickled, else a RuntimeError with its type and text."""
    try:
        received = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    assert isinstance(received, BaseException)
    return received


def with_zero_gradient(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The tensor; on several ranks it depends on the parameter, which gets a gradient of zero.

    Strict DDP refuses a step in which a parameter gets no gradient. In one process nothing is changed.
    """
    return tensor + 0 * parameter if is_multi_process() else tensor
