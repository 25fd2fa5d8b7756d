"""A script that continues after an error on one of two ranks: the other rank does not hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import environment, invoke, run_ranks

SCRIPT = Path(__file__).parent / "continuing.py"
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}


@pytest.mark.ddp
def test_all_ranks_raise_the_error_of_one_and_continue(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("1.7.4")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    command = [training_env, SCRIPT, tmp_path / "two", json.dumps(TWO)]
    code, results, output = run_ranks(command, tmp_path / "two", environment(site))
    assert code == 0, output[-3000:]
    assert results == [["No windows available for training", 3]] * 2
