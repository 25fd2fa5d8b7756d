"""Ranks that share a prediction give what one process gives, and none of them hangs, whatever the others do."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ALL_JOURNEYS, RANKS_TIMEOUT_SECONDS, environment, invoke

SCRIPT = Path(__file__).parent / "predicting.py"
# The release, the number of ranks, and the one that ends itself: the last one, or the one whose store all use
CHOSEN = [("1.7.4", 3, 0), ("3.3.0", 2, 1)]
FURTHER = [("1.7.4", 2, 1), ("3.3.0", 3, 0), ("1.5.0", 2, 1), ("2.0.1", 2, 0), ("3.0.2", 2, 1)] if ALL_JOURNEYS else []
MODELS, BATCHES = 2, 5
MEETING_SECONDS = 10


def run(python: Path, site: Path, out: Path, plan: str, world_size: int = 1, killed: int = -1) -> list[int]:
    """Run the script in processes that no launcher ends when one of them ends; their exit codes."""
    out.mkdir()
    common = {**environment(site), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "KILLED": str(killed)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    processes = []
    for rank in range(world_size):
        ranks = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world_size)} if world_size > 1 else {}
        with (out / f"words-{rank}").open("w") as words:
            command = [python, SCRIPT, out, plan, str(world_size)]
            processes.append(
                subprocess.Popen(command, env={**common, **ranks}, cwd=out, stdout=words, stderr=subprocess.STDOUT)
            )
    try:
        return [process.wait(RANKS_TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()


def told_by(out: Path, rank: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / f"rank-{rank}.json").read_text())
    return told


def words_in(out: Path) -> str:
    return "".join(path.read_text()[-2000:] for path in sorted(out.glob("words-*")))


def n_batches(rank: int, world_size: int) -> int:
    """How many batches a rank predicts of all models that it shares."""
    return MODELS * len(range(rank, BATCHES, world_size))


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "world_size", "killed"), [*CHOSEN, *FURTHER])
def test_ranks_share_what_all_of_them_predict(
    release: str, world_size: int, killed: int, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    assert run(training_env, site, tmp_path / "one", "reference") == [0], words_in(tmp_path / "one")
    one = told_by(tmp_path / "one")
    applied = invoke("apply", "multi-process", "predict-on-all-devices", "--allow-modified", "--site-packages", site)
    assert applied.exit_code == 0, applied.output
    out = tmp_path / "ranks"
    codes = run(training_env, site, out, "all", world_size, killed)
    assert codes == [-9 if rank == killed else 0 for rank in range(world_size)], words_in(out)

    for rank in range(world_size):
        told = told_by(out, rank)
        for stage in ("predict", "cross_validation", "simulate", "predict_insample"):
            if stage in one:
                assert told[stage][:3] == one[stage][:3], (rank, stage)
        for stage in ("predict", "cross_validation", *({"simulate"} & one.keys())):
            assert told[stage][3] == n_batches(rank, world_size), (rank, stage)
        # A model that draws random numbers, and other data on each rank: as without the patch
        assert told["drawing"][:4] == one["drawing"][:4], rank
        assert told[f"frame {rank}"][:4] == one[f"frame {rank}"][:4], rank
        if rank == 1:
            assert told["error"] == "own error"
        else:
            assert told["predict, an error"][:3] == one["one model"][:3], rank
        assert told["predict again"][:3] == one["one model"][:3], rank
        assert told["predict again"][3] == n_batches(rank, world_size) // MODELS, rank
        if rank != killed:
            for stage in ("predict, a killed rank", "predict afterwards"):
                assert told[stage][:3] == one["one model"][:3], (rank, stage)
            missing = len(range(killed, BATCHES, world_size))
            assert told["predict, a killed rank"][3] == n_batches(rank, world_size) // MODELS + missing
            # All later calls wait for nobody
            assert told["predict afterwards"][3] == BATCHES
            assert told["predict afterwards"][4] < MEETING_SECONDS


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "world_size"), [("3.3.0", 2), *([("1.7.4", 3)] if ALL_JOURNEYS else [])])
def test_a_rank_that_predicts_alone_waits_once(
    release: str, world_size: int, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    applied = invoke("apply", "multi-process", "predict-on-all-devices", "--allow-modified", "--site-packages", site)
    assert applied.exit_code == 0, applied.output
    assert run(training_env, site, tmp_path / "one", "reference") == [0], words_in(tmp_path / "one")
    one = told_by(tmp_path / "one")
    out = tmp_path / "ranks"
    assert run(training_env, site, out, "alone", world_size) == [0] * world_size, words_in(out)
    first = told_by(out)
    assert {tuple(map(str, first[stage][:4])) for stage in first} == {tuple(map(str, one["predict"][:4]))}
    for rank in range(world_size):
        assert told_by(out, rank)["predict"][:4] == one["predict"][:4]
        assert told_by(out, rank)["predict"][3] == MODELS * BATCHES
