"""Trainings with further arguments of Lightning's trainer, in processes with two threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import TORCHRUN, environment, invoke, run_ranks

pytestmark = pytest.mark.ddp

HERE = Path(__file__).parent
THREADS = 2
ONE: dict[str, Any] = {"devices": 1}
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
OTHERS = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "precision": "bf16-mixed"}
WINDOWS = {"windows_batch_size": 8}
RELEASES = ("3.3.0", "1.7.4")


def run(
    site: Path,
    python: Path,
    out: Path,
    trainer: Mapping[str, Any],
    model: Mapping[str, Any],
    launcher: Sequence[str] = (),
) -> list[Any]:
    """The results of each process."""
    command = [python, *launcher, HERE / "trainer_arguments.py", out, json.dumps(trainer), json.dumps(model)]
    code, results, printed = run_ranks(command, out, environment(site, HERE), threads=THREADS)
    assert code == 0, printed[-3000:]
    threads = [path.read_text().split() for path in out.glob("threads-*")]
    assert threads == [[str(THREADS)]] * trainer["devices"]
    return results


@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES)
def test_ranks_with_the_same_series_train_on_different_windows(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    (one,) = run(site, training_env, tmp_path / "one", ONE, WINDOWS)

    first, second = run(site, training_env, tmp_path / "two", TWO, WINDOWS, TORCHRUN)

    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]
    assert first["weights"] != one["weights"], "unpatched, they would be the same"
    (spawned,) = run(site, training_env, tmp_path / "spawned", {**TWO, "strategy": "ddp_spawn"}, WINDOWS)
    assert spawned == first


@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES)
def test_with_the_users_own_distributed_sampler_ranks_train_as_unpatched(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    """With accumulated and clipped gradients in bfloat16; Lightning starts the processes."""
    site, trainer, model = released(release), {**TWO, **OTHERS}, {**WINDOWS, "sampler": "own"}
    before = run(site, training_env, tmp_path / "released", trainer, model)
    assert invoke("apply", "--site-packages", site).exit_code == 0

    first, second = run(site, training_env, tmp_path / "patched", trainer, model)

    assert [first, second] == before
    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]
