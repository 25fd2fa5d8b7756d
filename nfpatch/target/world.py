"""The ranks of a launch, on all nodes, and how they meet."""

from __future__ import annotations

import datetime
import json
import os
import signal
import time
from typing import Any

from .events import RankInfo, TrainSpec, decode, encode

# Set by the first process of Lightning's own launcher until there are others: the id of the case in which it starts
# them. They run the cases before it without the first one, which has run them alone.
STARTED_IN = "NFPATCH_STARTED_IN"
# Seconds that a process gets to print where it hangs.
ANSWER_TIME = 0.5


class World:
    """All ranks of the launch, on all nodes, as they meet in the store in which torch's process groups meet too.

    They leave each case together: a rank that failed alone must not go on to the next one while another still waits
    for it in a collective of this one, as their messages would mix.
    """

    def __init__(self, spec: TrainSpec) -> None:
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        self._is_together = spec.launcher != "script"
        if spec.launcher == "torchrun":
            patience = datetime.timedelta(seconds=spec.timeout)
            store, self.rank, self.size = next(rendezvous("env://", timeout=patience))
        else:
            self.rank, self.size = rank_of(spec), spec.reporting
            store = distributed.FileStore(os.path.join(spec.out, "store"), self.size)
        self._store = distributed.PrefixStore("nfpatch", store)
        self._meetings = 0
        self._patience = spec.patience
        self._node = os.environ.get("GROUP_RANK", "0")
        self._store.set(f"process/{self.rank}", json.dumps([self._node, os.getpid()]))

    def enter(self, case: str) -> None:
        """To be called before each case, with its id."""
        if self._is_together:
            return
        if "LOCAL_RANK" not in os.environ:
            os.environ[STARTED_IN] = case
        else:
            self._is_together = self.rank == 0 or os.environ[STARTED_IN] == case

    def is_together(self) -> bool:
        """Whether there are others to be met. Lightning's own launcher starts them at the first fit."""
        return self._is_together or (self.rank == 0 and "LOCAL_RANK" in os.environ)

    def gather(self, value: Any, patience: float | None = None) -> list[Any]:
        """What each rank has brought along, by rank, as soon as all have come; the own value for all if none is there.

        Raises RuntimeError that names a rank which does not come within `patience` seconds, after it was made to say
        where it is.
        """
        if not self.is_together():
            return [value] * self.size
        self._meetings += 1
        self._store.set(self._key(self.rank), json.dumps(value))
        return [json.loads(self._brought_by(rank, patience or self._patience)) for rank in range(self.size)]

    def leave(self) -> None:
        """To be called last of all. Some releases of torch keep the store in rank 0, which therefore waits for all."""
        if not self.is_together():
            return
        self._meetings += 1
        self._store.set(self._key(self.rank), "")
        for rank in range(self.size if self.rank == 0 else 0):
            self._brought_by(rank, self._patience)

    def _key(self, rank: int) -> str:
        return f"{self._meetings}/{rank}"

    def _brought_by(self, rank: int, patience: float) -> bytes:
        try:
            self._store.wait([self._key(rank)], datetime.timedelta(seconds=patience))
            brought: bytes = self._store.get(self._key(rank))
        except RuntimeError as error:
            self._ask_for_place(rank)
            raise RuntimeError(f"rank {rank} has ended, or did not come within {patience:g} s") from error
        return brought

    def _ask_for_place(self, rank: int) -> None:
        """Makes a process of this node print where it is."""
        try:
            self._store.wait([f"process/{rank}"], datetime.timedelta(seconds=ANSWER_TIME))
            node, pid = json.loads(self._store.get(f"process/{rank}"))
            if node == self._node:
                os.kill(pid, signal.SIGUSR1)
                time.sleep(ANSWER_TIME)
        except (RuntimeError, OSError):
            pass  # it has never come, or has ended


def rank_of(spec: TrainSpec) -> int:
    """The rank of this process among those that report."""
    return int(os.environ["RANK"]) if spec.launcher == "torchrun" else local_rank()


def local_rank() -> int:
    """The rank of this process on its node, as its launcher sets it; 0 if there is no other yet."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def assembled(world: World, spec: TrainSpec, gpus: int | None) -> list[RankInfo]:
    """What each rank says of itself, once all are there and have come for the same proof."""
    node = os.environ.get("GROUP_RANK", "0")
    own = RankInfo(node, spec.devices, gpus, spec.world_size, spec.accelerator, spec.cases)
    if spec.launcher != "torchrun":  # there may be no others yet, and all are on this machine
        return [own] * spec.world_size
    ranks = [decode(RankInfo, rank) for rank in world.gather(encode(own), spec.timeout)]
    for number, other in enumerate(ranks):
        if not other.came_for_the_same(own):
            raise RuntimeError(f"rank {number} came for another proof: run the same command on every node")
    if world.size != spec.world_size:
        raise RuntimeError(f"{world.size} ranks came, and not {spec.world_size}")
    return ranks
