"""Each process has its own GPU if there are enough, and the backend allows what is shared."""

from __future__ import annotations

from nfpatch.target.trainer import backend_for, gpu_of
from nfpatch.target.world import RankInfo


def test_the_backend_is_nccl_unless_processes_share_a_gpu() -> None:
    def node(processes: int, gpus: int | None) -> RankInfo:
        return RankInfo("0", processes, gpus, "proof")

    assert backend_for("cpu", [node(2, None)]) == "gloo"
    assert backend_for("gpu", [node(2, 2)]) == "nccl"
    assert backend_for("gpu", [node(2, 8)]) == "nccl"
    assert backend_for("gpu", [node(2, 1)]) == "gloo"
    assert backend_for("gpu", [node(2, 2), node(2, 1)]) == "gloo"


def test_processes_get_one_gpu_each_or_share_them() -> None:
    assert [gpu_of(rank, gpus=4) for rank in range(3)] == [0, 1, 2]
    assert [gpu_of(rank, gpus=1) for rank in range(2)] == [0, 0]
    assert [gpu_of(rank, gpus=2) for rank in range(5)] == [0, 1, 0, 1, 0]
