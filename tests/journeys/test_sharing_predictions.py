"""Ranks that share a prediction return the forecasts of one process, and do not hang if another rank fails."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import RANKS_TIMEOUT_SECONDS, environment, invoke, long

SCRIPT = Path(__file__).parent / "predicting.py"
PATCHES = ("multi-process", "predict-on-all-devices")
# Of the script: the number of models, of batches in a prediction, and of series
MODELS, BATCHES, SERIES = 2, 5, 9
TIMEOUT_SECONDS = 10
Results = dict[str, list[Any]]


def start(
    python: Path, site: Path, out: Path, plan: str, world_size: int, chosen: int
) -> list[subprocess.Popen[bytes]]:
    """Start the script in processes without a launcher, which would stop all of them when one ends."""
    out.mkdir()
    common = {**environment(site), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CHOSEN": str(chosen)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    processes = []
    for rank in range(world_size):
        ranks = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world_size)} if world_size > 1 else {}
        with (out / f"output-{rank}").open("w") as output:
            command = [python, SCRIPT, out, plan, str(world_size)]
            processes.append(
                subprocess.Popen(command, env={**common, **ranks}, cwd=out, stdout=output, stderr=subprocess.STDOUT)
            )
    return processes


def run(python: Path, site: Path, out: Path, plan: str, world_size: int = 1, chosen: int = 0) -> list[Results]:
    """The results of each rank. All exit with 0, except the chosen rank of the plan "failing", which is killed."""
    processes = start(python, site, out, plan, world_size, chosen)
    try:
        codes = [process.wait(RANKS_TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    output = "".join(path.read_text()[-2000:] for path in sorted(out.glob("output-*")))
    assert codes == [-9 if plan == "failing" and rank == chosen else 0 for rank in range(world_size)], output
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(world_size)]


@pytest.fixture
def trained(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> Callable[..., list[Results]]:
    """Runs a plan on a patched release."""

    def run_patched(release: str, plan: str, world_size: int = 1, chosen: int = 0) -> list[Results]:
        site = released(release)
        if world_size > 1:
            applied = invoke("apply", *PATCHES, "--site-packages", site)
            assert applied.exit_code == 0, applied.output
        return run(training_env, site, tmp_path / plan, plan, world_size, chosen)

    return run_patched


def n_own(rank: int, world_size: int, parts: int = BATCHES) -> int:
    """The number of parts of each model's prediction that a rank computes."""
    return len(range(rank, parts, world_size))


FURTHER = [("1.5.0", 2), ("1.7.4", 2), ("1.7.4", 3), ("2.0.1", 2), ("3.0.0", 2), ("3.0.2", 2), ("3.3.0", 2)]


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "world_size"), [("3.3.0", 3), *(long(*each) for each in FURTHER)])
def test_ranks_share_a_prediction_that_all_of_them_make(
    release: str, world_size: int, trained: Callable[..., list[Results]]
) -> None:
    (one,) = trained(release, "reference")
    for rank, results in enumerate(trained(release, "shared", world_size)):
        for stage in {"predict", "cross_validation", "simulate", "predict_insample"} & one.keys():
            is_by_series = stage == "predict_insample" and release >= "3"
            # The forecasts, and the random numbers after them unless the ranks have trained, which draws some
            n_equal = 2 if stage == "cross_validation" else 3
            assert results[stage][:n_equal] == one[stage][:n_equal], (rank, stage)
            assert results[stage][3] == MODELS * n_own(rank, world_size, SERIES if is_by_series else BATCHES), (
                rank,
                stage,
            )
        # A model that draws random numbers, and different data on each rank: not shared
        for stage in ("drawing", f"frame {rank}"):
            assert results[stage][:4] == one[stage][:4], (rank, stage)


@pytest.mark.ddp
@pytest.mark.parametrize(("world_size", "killed"), [(3, 0), long(2, 1)])
def test_a_rank_that_fails_or_is_killed_leaves_its_batches_to_the_others(
    world_size: int, killed: int, trained: Callable[..., list[Results]]
) -> None:
    """Rank 0 hosts the store, so that without it each of the other ranks predicts everything."""
    release = "3.3.0"
    (one,) = trained(release, "one model")
    ranks = trained(release, "failing", world_size, killed)
    assert ranks[1]["error"] == "own error"
    for rank, results in enumerate(ranks):
        own = n_own(rank, world_size)
        if rank != 1:
            assert results["an error"][3] == own + n_own(1, world_size)
        assert results["again"][3] == own
        if rank != killed:
            assert own + n_own(killed, world_size) <= results["a killed rank"][3] <= BATCHES
            # Later calls do not wait for the killed rank
            assert results["afterwards"][3] == BATCHES
            assert results["afterwards"][4] < TIMEOUT_SECONDS
        for stage in {"an error", "again", "a killed rank", "afterwards"} & results.keys():
            assert results[stage][:3] == one["one model"][:3], (rank, stage)


@pytest.mark.ddp
@pytest.mark.long
@pytest.mark.parametrize(("world_size", "lone"), [(2, 0), (3, 1)])
def test_a_rank_that_predicts_while_others_do_not_waits_once(
    world_size: int, lone: int, trained: Callable[..., list[Results]]
) -> None:
    release = "3.3.0"
    (one,) = trained(release, "one model")
    ranks = trained(release, "one rank", world_size, lone)
    for rank, results in enumerate(ranks):
        assert ("error" in results) is (rank != lone)
        for stage in results.keys() - {"error"}:
            assert results[stage][:4] == one["one model"][:4], (rank, stage)
    waited = [ranks[lone][f"one rank {number}"][4] >= TIMEOUT_SECONDS for number in range(3)]
    assert waited == [True, False, False]
