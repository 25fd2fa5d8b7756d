"""The ranks of a launch, on all nodes, and how they meet."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

# How long, in seconds, a rank waits for the others where all meet before it gives the launch up.
MEETING_TIMEOUT = 30


class World:
    """All ranks of the launch, on all nodes, as they meet in the store in which torch's process groups meet too.

    They leave each case together: a rank that failed alone must not go on to the next one while another still waits
    for it in a collective of this one, as their messages would mix.
    """

    def __init__(self, patience: float) -> None:
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        store, self.rank, self.size = next(rendezvous("env://", timeout=datetime.timedelta(seconds=patience)))
        self._store = distributed.PrefixStore("nfpatch", store)
        self._meetings = 0

    def gather(self, value: Any, patience: float = MEETING_TIMEOUT) -> list[Any]:
        """What each rank has brought along, by rank, as soon as all have come.

        Raises RuntimeError that names a rank which does not come within `patience` seconds.
        """
        self._meetings += 1
        self._store.set(self._key(self.rank), json.dumps(value))
        return [json.loads(self._brought_by(rank, patience)) for rank in range(self.size)]

    def leave(self) -> None:
        """To be called last of all. Some releases of torch keep the store in rank 0, which therefore waits for all."""
        self._meetings += 1
        self._store.set(self._key(self.rank), "")
        for rank in range(self.size if self.rank == 0 else 0):
            self._brought_by(rank, MEETING_TIMEOUT)

    def _key(self, rank: int) -> str:
        return f"{self._meetings}/{rank}"

    def _brought_by(self, rank: int, patience: float) -> bytes:
        try:
            self._store.wait([self._key(rank)], datetime.timedelta(seconds=patience))
            brought: bytes = self._store.get(self._key(rank))
        except RuntimeError as error:
            raise RuntimeError(f"rank {rank} has ended, or was not heard of for {patience:g} s") from error
        return brought


def assembled(world: World, spec: dict[str, Any], gpus: int | None) -> list[dict[str, Any]]:
    """What each rank tells about itself, once all are there and have come for the same proof."""
    own = {
        "node": os.environ["GROUP_RANK"],
        "processes": int(os.environ["LOCAL_WORLD_SIZE"]),
        "gpus": gpus,
        "proof": [spec["world_size"], spec["accelerator"], spec["cases"]],
    }
    ranks = world.gather(own, spec["timeout"])
    for number, other in enumerate(ranks):
        if other["proof"] != own["proof"]:
            raise RuntimeError(f"rank {number} came for another proof: run the same command on every node")
    if world.size != spec["world_size"]:
        raise RuntimeError("{} ranks came, and not {}".format(world.size, spec["world_size"]))
    return ranks
