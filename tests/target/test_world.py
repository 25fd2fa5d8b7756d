"""Only ranks of the same proof form a group."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nfpatch.target.events import CaseSpec, TrainSpec
from nfpatch.target.world import RankInfo, gather_rank_infos, proof_of

# Seconds; the test does not wait.
PATIENCE = 60


def test_ranks_of_another_proof_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_RANK", "0")
    case = CaseSpec("a", "NHITS", "MAE", options={"mlp_units": [[8, 8]]})
    spec = TrainSpec({}, (case,), "torchrun", "cpu", 1, 2, 2, 3, False, PATIENCE, PATIENCE, "out")

    class World:
        """Two ranks, of which the other one has this specification."""

        size = 2

        def __init__(self, other: TrainSpec) -> None:
            self.other = other

        def gather(self, own: RankInfo, patience: float) -> list[object]:
            return [list(own), ["1", 1, 8, proof_of(self.other)]]

    assert [rank.gpus for rank in gather_rank_infos(World(replace(spec, out="elsewhere")), spec, None)] == [None, 8]
    for other in (
        replace(spec, cases=(replace(case, id="b"),)),
        replace(spec, accelerator="gpu"),
        replace(spec, world_size=4),
    ):
        with pytest.raises(RuntimeError, match=r"rank 1 .*: run the same command on every node"):
            gather_rank_infos(World(other), spec, None)
