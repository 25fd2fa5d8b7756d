"""Trainings with arguments of Lightning's trainer, by processes of two threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import ALL_JOURNEYS, TORCHRUN, environment, invoke, run_ranks

pytestmark = pytest.mark.ddp

HERE = Path(__file__).parent
THREADS = 2
ONE: dict[str, Any] = {"devices": 1}
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
UNSHARDED = {"use_distributed_sampler": False}
OTHERS = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "precision": "bf16-mixed"}
RELEASES = ("3.3.0", "1.7.4") if ALL_JOURNEYS else ("3.3.0",)
TOLERANCE = 1e-5


def run(
    site: Path,
    python: Path,
    out: Path,
    trainer: Mapping[str, Any],
    model: Mapping[str, Any],
    launcher: Sequence[str] = (),
) -> list[Any]:
    """What each process got."""
    command = [python, *launcher, HERE / "trainer_arguments.py", out, json.dumps(trainer), json.dumps(model)]
    code, told, words = run_ranks(command, out, environment(site, HERE), threads=THREADS)
    assert code == 0, words[-3000:]
    assert all(each["threads"] == THREADS for each in told)
    return told


@pytest.mark.parametrize("release", RELEASES)
def test_ranks_with_the_same_series_learn_as_one_process_with_all_their_windows(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    (one,) = run(site, training_env, tmp_path / "one", ONE, {"windows_batch_size": 16})

    first, second = run(site, training_env, tmp_path / "two", {**TWO, **UNSHARDED}, {"windows_batch_size": 8}, TORCHRUN)

    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]
    means = [(own + other) / 2 for own, other in zip(first["losses"], second["losses"])]
    assert means == pytest.approx(one["losses"], rel=TOLERANCE)


@pytest.mark.parametrize("release", RELEASES)
def test_with_a_distributed_sampler_of_the_users_own_each_rank_learns_as_released(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    """And with gradients that are accumulated and clipped, and bfloat16."""
    site, trainer, model = released(release), {**TWO, **UNSHARDED, **OTHERS}, {"sampler": "own"}
    before = run(site, training_env, tmp_path / "released", trainer, model)
    assert invoke("apply", "--site-packages", site).exit_code == 0

    first, second = run(site, training_env, tmp_path / "patched", trainer, model)

    assert [first, second] == before
    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]


@pytest.mark.skipif(not ALL_JOURNEYS, reason="`make journeys` runs it")
def test_processes_of_spawn_have_several_threads(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("3.3.0")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    first, _ = run(site, training_env, tmp_path / "torch", TWO, {}, TORCHRUN)
    (spawned,) = run(site, training_env, tmp_path / "spawn", {**TWO, "strategy": "ddp_spawn"}, {})
    assert spawned["weights"] == first["weights"]
