"""Several ranks share the batches of a validation, and have the losses of one process, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import environment, invoke, run_ranks

SCRIPT = Path(__file__).parent / "validating.py"
ONE = {"accelerator": "cpu", "devices": 1}


@pytest.mark.ddp
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_have_the_validation_losses_of_one_process(
    n_ranks: int, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("3.3.0")
    code, (one,), words = run_ranks(
        [training_env, SCRIPT, tmp_path / "one", json.dumps(ONE)], tmp_path / "one", environment(site)
    )
    assert code == 0, words[-3000:]
    assert one["failing"]["error"] == "no loss"
    assert invoke("apply", "--site-packages", site).exit_code == 0
    trainer = {**ONE, "devices": n_ranks, "strategy": "ddp"}
    command = [training_env, SCRIPT, tmp_path / "ranks", json.dumps(trainer)]
    code, ranks, words = run_ranks(command, tmp_path / "ranks", environment(site))
    assert code == 0, words[-3000:]
    # after a step of a training, what is drawn differs with the number of ranks
    for each in (one, *ranks):
        each["drawing"] = {name: each["drawing"][name][:1] for name in ("losses", "metrics")}
    assert ranks == [one] * n_ranks
