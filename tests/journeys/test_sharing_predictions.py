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
PATCHES = ("multi-process", "predict-on-all-devices")
# Of the script: a model, the batches of its prediction, and its series
MODELS, BATCHES, SERIES = 2, 5, 9
MEETING_SECONDS = 10
Told = dict[str, list[Any]]


def start(
    python: Path, site: Path, out: Path, plan: str, world_size: int, chosen: int
) -> list[subprocess.Popen[bytes]]:
    """Start the script in processes that no launcher ends when one of them ends."""
    out.mkdir()
    common = {**environment(site), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CHOSEN": str(chosen)}
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
    return processes


def run(python: Path, site: Path, out: Path, plan: str, world_size: int = 1, chosen: int = 0) -> list[Told]:
    """What each rank tells, all of which end well; but the chosen one of the plan "failing", which is killed."""
    processes = start(python, site, out, plan, world_size, chosen)
    try:
        codes = [process.wait(RANKS_TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    words = "".join(path.read_text()[-2000:] for path in sorted(out.glob("words-*")))
    assert codes == [-9 if plan == "failing" and rank == chosen else 0 for rank in range(world_size)], words
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(world_size)]


@pytest.fixture
def trained(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> Callable[..., list[Told]]:
    """Runs a plan on a patched release."""

    def run_patched(release: str, plan: str, world_size: int = 1, chosen: int = 0) -> list[Told]:
        site = released(release)
        if world_size > 1:
            applied = invoke("apply", *PATCHES, "--site-packages", site)
            assert applied.exit_code == 0, applied.output
        return run(training_env, site, tmp_path / plan, plan, world_size, chosen)

    return run_patched


def n_own(rank: int, world_size: int, parts: int = BATCHES) -> int:
    """How many parts of a prediction a rank predicts of each model."""
    return len(range(rank, parts, world_size))


FURTHER = [("1.5.0", 2), ("1.7.4", 3), ("3.0.0", 2), ("3.0.2", 2), ("3.3.0", 2)] if ALL_JOURNEYS else []


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "world_size"), [("1.7.4", 2), ("2.0.1", 2), ("3.3.0", 3), *FURTHER])
def test_ranks_share_what_all_of_them_predict(
    release: str, world_size: int, trained: Callable[..., list[Told]]
) -> None:
    (one,) = trained(release, "reference")
    for rank, told in enumerate(trained(release, "shared", world_size)):
        for stage in {"predict", "cross_validation", "simulate", "predict_insample"} & one.keys():
            is_by_series = stage == "predict_insample" and release >= "3"
            # The forecasts, and the random numbers after them but where ranks train, and draw for that
            n_equal = 2 if stage == "cross_validation" else 3
            assert told[stage][:n_equal] == one[stage][:n_equal], (rank, stage)
            assert told[stage][3] == MODELS * n_own(rank, world_size, SERIES if is_by_series else BATCHES), (
                rank,
                stage,
            )
        # A model that draws random numbers, and other data on each rank: as without the patch
        for stage in ("drawing", f"frame {rank}"):
            assert told[stage][:4] == one[stage][:4], (rank, stage)


@pytest.mark.ddp
@pytest.mark.parametrize(("world_size", "killed"), [(2, 1), (3, 0)])
def test_a_rank_that_fails_or_is_killed_leaves_its_batches_to_the_others(
    world_size: int, killed: int, trained: Callable[..., list[Told]]
) -> None:
    """Rank 0 has the store that all use, so that without it each of the others is alone."""
    release = "3.3.0"
    (one,) = trained(release, "one model")
    everywhere = trained(release, "failing", world_size, killed)
    assert everywhere[1]["error"] == "own error"
    for rank, told in enumerate(everywhere):
        own = n_own(rank, world_size)
        if rank != 1:
            assert told["an error"][3] == own + n_own(1, world_size)
        assert told["again"][3] == own
        if rank != killed:
            assert own + n_own(killed, world_size) <= told["a killed rank"][3] <= BATCHES
            # All later calls wait for nobody
            assert told["afterwards"][3] == BATCHES
            assert told["afterwards"][4] < MEETING_SECONDS
        for stage in {"an error", "again", "a killed rank", "afterwards"} & told.keys():
            assert told[stage][:3] == one["one model"][:3], (rank, stage)


@pytest.mark.ddp
@pytest.mark.parametrize(("world_size", "lone"), [(2, 0), *([(3, 1)] if ALL_JOURNEYS else [])])
def test_a_rank_that_predicts_alone_waits_once(world_size: int, lone: int, trained: Callable[..., list[Told]]) -> None:
    release = "3.3.0"
    (one,) = trained(release, "one model")
    everywhere = trained(release, "alone", world_size, lone)
    for rank, told in enumerate(everywhere):
        assert ("error" in told) is (rank != lone)
        for stage in told.keys() - {"error"}:
            assert told[stage][:4] == one["one model"][:4], (rank, stage)
    waited = [everywhere[lone][f"alone {number}"][4] >= MEETING_SECONDS for number in range(3)]
    assert waited == [True, False, False]
