"""Training in processes that Lightning forks from a process with several threads, as in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import environment, invoke, long, run_ranks

pytestmark = pytest.mark.ddp

HERE = Path(__file__).parent
RESULTS = {
    "script": [24, 48],  # rows of two series: a forecast of twelve months, and two windows of a cross-validation
    "search": 24,
}
TRAININGS = {"script": 3, "search": 3}  # two trials, and the final training with the best configuration
HANG_SECONDS, SLOW_SECONDS = 10, 100  # for a training that takes one
# Release, strategy and number of threads
CASES = [
    ("3.3.0", "ddp_notebook", 4),
    *(long("3.3.0", "ddp_notebook", threads) for threads in (1, 2)),
    *(long("1.7.4", "ddp_fork", threads) for threads in (1, 2, 4)),
    long("1.5.0", "ddp_notebook", 4),
]


def run(
    site: Path,
    python: Path,
    out: Path,
    strategy: str,
    threads: int,
    stages: tuple[str, ...],
    seconds: int = SLOW_SECONDS,
) -> tuple[int, list[Any], str]:
    """The exit code of the script, the results of its process, and its output."""
    command = [python, HERE / "forked.py", out, strategy, threads, seconds, *stages]
    return run_ranks(command, out, environment(site, HERE), threads=threads)


def threads_of_ranks(out: Path) -> list[list[str]]:
    """How many threads each rank had, in each of its trainings."""
    return [path.read_text().split() for path in sorted(out.glob("threads-*"))]


@pytest.mark.parametrize(("release", "strategy", "threads"), CASES)
def test_forked_processes_train_with_one_thread_and_nothing_else_changes(
    release: str,
    strategy: str,
    threads: int,
    released: Callable[[str], Path],
    training_env: Path,
    tmp_path: Path,
) -> None:
    site = released(release)
    code, before, printed = run(site, training_env, tmp_path / "released", strategy, threads, ("single",))
    assert code == 0, printed[-3000:]
    assert invoke("apply", "--site-packages", site).exit_code == 0

    out = tmp_path / "patched"
    stages = ("script",) if release == "1.5.0" else ("script", "search")  # 1.5.0 searches through ray only
    code, after, printed = run(site, training_env, out, strategy, threads, ("single", *stages))

    assert code == 0, printed[-3000:]
    assert after[0]["single"] == before[0]["single"], "a single process trains as with the unpatched source"
    assert {name: after[0][name] for name in stages} == {name: RESULTS[name] for name in stages}
    assert [after[0][f"threads after {name}"] for name in ("single", *stages)] == [[threads] * 3] * (1 + len(stages))
    assert threads_of_ranks(out) == [["1"] * sum(TRAININGS[name] for name in stages)] * 2


@pytest.mark.long
@pytest.mark.parametrize("release", ["3.3.0", "1.7.4", "1.5.0"])
def test_unpatched_forked_processes_hang_in_the_first_fit(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    out, stages = tmp_path / "out", ("single", "script")
    code, _, printed = run(released(release), training_env, out, "ddp_notebook", 2, stages, HANG_SECONDS)
    assert code != 0
    assert "Timeout" in printed, printed[-3000:]
    assert threads_of_ranks(out) == [["2"]] * 2
