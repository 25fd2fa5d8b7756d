"""Only ranks of the same proof form a group."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nfpatch.target.events import CaseSpec, TrainSpec, encode
from nfpatch.target.world import assembled

# Seconds; the test does not wait.
PATIENCE = 60


def test_ranks_of_another_proof_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_RANK", "0")
    case = CaseSpec("a", "NHITS", "MAE", options={"mlp_units": [[8, 8]]})
    spec = TrainSpec({}, (case,), "torchrun", "cpu", 1, 2, 2, 3, False, PATIENCE, PATIENCE, "out")

    class Meeting:
        """Two ranks, of which the other one is from another proof."""

        size = 2

        def __init__(self, **other: object) -> None:
            self.other = other

        def gather(self, own: dict[str, object], patience: float) -> list[object]:
            return [own, {**own, "node": "1", "gpus": 8, **self.other}]

    assert len(assembled(Meeting(), spec, None)) == 2
    for other in ({"cases": [encode(replace(case, id="b"))]}, {"accelerator": "gpu"}, {"world_size": 4}):
        with pytest.raises(RuntimeError, match="rank 1 came for another proof: run the same command on every node"):
            assembled(Meeting(**other), spec, None)
