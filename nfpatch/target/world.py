"""The ranks of a launch, on all nodes, and what they send each other."""

from __future__ import annotations

import datetime
import json
import os
import signal
import time
from typing import Any, NamedTuple

from .events import TrainSpec, encode

# Set by the first process of Lightning's own launcher until it starts the others: the id of the case in which it does.
# The others run the cases before that one without the first process, which has run them without the others.
STARTED_IN = "NFPATCH_STARTED_IN"
# Seconds that a process gets to print where it hangs.
ANSWER_TIME = 0.5


class World:
    """All ranks of the launch, on all nodes, which exchange values through the store of torch's process groups.

    They finish each case together: if a rank that failed went on to the next case while another one waits in a
    collective of this case, their messages would mix.
    """

    def __init__(self, spec: TrainSpec) -> None:
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        self._is_connected = spec.launcher != "script"
        if spec.launcher == "torchrun":
            patience = datetime.timedelta(seconds=spec.timeout)
            store, self.rank, self.size = next(rendezvous("env://", timeout=patience))
        else:
            self.rank, self.size = rank_of(spec), spec.reporting
            store = distributed.FileStore(os.path.join(spec.out, "store"), self.size)
        self._store = distributed.PrefixStore("nfpatch", store)
        self._sent = 0
        self._patience = spec.patience
        self._store.set(f"process/{self.rank}", json.dumps([node_of_process(), os.getpid()]))

    def enter(self, case: str) -> None:
        """To be called before each case, with its id."""
        if self._is_connected:
            return
        if "LOCAL_RANK" not in os.environ:
            os.environ[STARTED_IN] = case
        else:
            self._is_connected = self.rank == 0 or os.environ[STARTED_IN] == case

    def is_connected(self) -> bool:
        """Whether the ranks exchange values yet. Lightning's own launcher starts the others at the first fit."""
        return self._is_connected or (self.rank == 0 and "LOCAL_RANK" in os.environ)

    def gather(self, value: Any, patience: float | None = None) -> list[Any]:
        """The values of all ranks, by rank; this rank's for all of them if they do not exchange values yet.

        Raises RuntimeError with the rank that does not send its value within `patience` seconds, after it was made to
        print where it is.
        """
        if not self.is_connected():
            return [value] * self.size
        self._send(value)
        return [self._receive(rank, patience or self._patience) for rank in range(self.size)]

    def leave(self) -> None:
        """To be called last of all. Some releases of torch keep the store in rank 0, which therefore waits for all."""
        if self.is_connected():
            self._send(None)
            for rank in range(self.size if self.rank == 0 else 0):
                self._receive(rank, self._patience)

    def _send(self, value: Any) -> None:
        """Sends a value to all ranks, which they receive by the count of values so far."""
        self._sent += 1
        self._store.set(f"{self._sent}/{self.rank}", json.dumps(value))

    def _receive(self, rank: int, patience: float) -> Any:
        key = f"{self._sent}/{rank}"
        try:
            self._store.wait([key], datetime.timedelta(seconds=patience))
            return json.loads(self._store.get(key))
        except RuntimeError as error:
            self._print_stack_of(rank)
            raise RuntimeError(f"rank {rank} has ended, or did not come within {patience:g} s") from error

    def _print_stack_of(self, rank: int) -> None:
        """Makes a process of this node print where it is."""
        try:
            self._store.wait([f"process/{rank}"], datetime.timedelta(seconds=ANSWER_TIME))
            node, pid = json.loads(self._store.get(f"process/{rank}"))
            if node == node_of_process():
                os.kill(pid, signal.SIGUSR1)
                time.sleep(ANSWER_TIME)
        except (RuntimeError, OSError):
            pass  # it was never started, or has ended


class SingleProcess:
    """In place of the ranks, for a script that this process runs alone."""

    rank, size = 0, 1

    def gather(self, value: Any) -> list[Any]:
        """The value, as the only one."""
        return [value]


def node_of_process() -> str:
    """The number of this node, as torch's launcher sets it."""
    return os.environ.get("GROUP_RANK", "0")


def local_rank() -> int:
    """The rank of this process on its node, as its launcher sets it; 0 if there is no other yet."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank_of(spec: TrainSpec) -> int:
    """The rank of this process among those that report."""
    return int(os.environ["RANK"]) if spec.launcher == "torchrun" else local_rank()


class RankInfo(NamedTuple):
    """The node of a rank, with the number of processes and GPUs there, and the proof that it runs."""

    node: str
    processes: int
    gpus: int | None
    proof: str


def proof_of(spec: TrainSpec) -> str:
    """What must be the same on all ranks of a proof."""
    return json.dumps([spec.world_size, spec.accelerator, [encode(case) for case in spec.cases]])


def gather_rank_infos(world: World, spec: TrainSpec, gpus: int | None) -> list[RankInfo]:
    """All ranks, as soon as they have started. Raises RuntimeError if one of them runs another proof."""
    own = RankInfo(node_of_process(), spec.devices, gpus, proof_of(spec))
    if spec.launcher != "torchrun":  # all are on this machine, and may not have been started yet
        return [own] * spec.world_size
    ranks = [RankInfo(*info) for info in world.gather(own, spec.timeout)]
    for number, other in enumerate(ranks):
        if other.proof != own.proof:
            raise RuntimeError(f"rank {number} runs another proof: run the same command on every node")
    if world.size != spec.world_size:
        raise RuntimeError(f"there are {world.size} ranks instead of {spec.world_size}")
    return ranks
