"""The ranks that meet are those of one proof."""

from __future__ import annotations

import pytest

from nfpatch.target.world import assembled

# Seconds; nobody waits here.
PATIENCE = 60


def test_ranks_that_came_for_another_proof_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    spec = {"world_size": 2, "accelerator": "cpu", "cases": ["a"], "timeout": PATIENCE}
    spec.update(launcher="torchrun", devices=1)

    class Meeting:
        """Two ranks, of which the other came with something else."""

        size = 2

        def __init__(self, **other: object) -> None:
            self.other = other

        def gather(self, own: dict[str, object], patience: float) -> list[object]:
            theirs = {**spec, **self.other}
            return [own, {**own, "proof": [theirs["world_size"], theirs["accelerator"], theirs["cases"]]}]

    assert len(assembled(Meeting(), spec, None)) == 2
    for other in ({"cases": ["b"]}, {"accelerator": "gpu"}, {"world_size": 4}):
        with pytest.raises(RuntimeError, match="rank 1 came for another proof: run the same command on every node"):
            assembled(Meeting(**other), spec, None)
