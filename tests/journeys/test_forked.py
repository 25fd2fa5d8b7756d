"""A notebook's script: processes that Lightning forks from one with several threads train, and no other changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ALL_JOURNEYS, environment, invoke, run_ranks

HERE = Path(__file__).parent
ROWS = [24, 48]  # of two series: a forecast of twelve months, and two windows of a cross-validation
TRAININGS_OF_SCRIPT = 3
# Release, strategy and number of threads. All of them with `make journeys`.
CHOSEN = [("3.3.0", "ddp_notebook", 4), ("1.7.4", "ddp_fork", 2)]
OTHERS = [
    *(("3.3.0", "ddp_notebook", threads) for threads in (1, 2)),
    *(("1.7.4", "ddp_fork", threads) for threads in (1, 4)),
    ("1.5.0", "ddp_notebook", 4),
]


def run(site: Path, python: Path, out: Path, strategy: str, threads: int, *what: str) -> tuple[int, list[Any], str]:
    """The exit code of the script, what its process got, and what was printed."""
    command = [python, HERE / "forked.py", out, strategy, threads, *what]
    return run_ranks(command, out, environment(site, HERE), threads=threads)


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "strategy", "threads"), [*CHOSEN, *(OTHERS if ALL_JOURNEYS else [])])
def test_forked_processes_train_with_one_thread_and_nothing_else_changes(
    release: str,
    strategy: str,
    threads: int,
    released: Callable[[str], Path],
    training_env: Path,
    tmp_path: Path,
) -> None:
    site = released(release)
    code, (before,), words = run(site, training_env, tmp_path / "released", strategy, threads, "alone")
    assert code == 0, words[-3000:]
    assert invoke("apply", "--site-packages", site).exit_code == 0

    out = tmp_path / "patched"
    what = ("alone", "script") if release == "1.5.0" else ("alone", "script", "search")
    code, (told,), words = run(site, training_env, out, strategy, threads, *what)

    assert code == 0, words[-3000:]
    assert told["alone"] == before["alone"], "one process learns what it learns from the released source"
    assert told["script"] == ROWS
    assert [told[f"threads after {each}"] for each in what] == [[threads] * 3] * len(what)
    of_ranks = [path.read_text().split() for path in sorted(out.glob("threads-*"))]
    assert len(of_ranks) == 2
    assert all(set(each) == {"1"} and len(each) >= TRAININGS_OF_SCRIPT for each in of_ranks)
