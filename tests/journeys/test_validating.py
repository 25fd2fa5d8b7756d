"""Several ranks share the batches of a validation, and have the losses of one process, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ALL_JOURNEYS, environment, invoke, run_ranks

SCRIPT = Path(__file__).parent / "validating.py"
ONE = {"accelerator": "cpu", "devices": 1}


# The release and the number of ranks
CHOSEN = [("3.3.0", 2), ("1.7.4", 3)]
RELEASES = ("1.5.0", "2.0.1", "3.0.2", "3.1.9", "3.2.1")
FURTHER = [("3.3.0", 3), ("1.7.4", 2), *((release, 2) for release in RELEASES)] if ALL_JOURNEYS else []


def run(python: Path, site: Path, out: Path, trainer: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank got in each training."""
    code, told, words = run_ranks([python, SCRIPT, out, json.dumps(trainer)], out, environment(site))
    assert code == 0, words[-3000:]
    return told


def of_validations(training: dict[str, Any], is_drawing: bool) -> dict[str, Any]:
    """What any number of ranks has; of a training that draws random numbers, only before its first step."""
    kept = {name: training[name] for name in ("losses", "metrics", "asked", "error")}
    if is_drawing:
        kept.update({name: training[name][:1] for name in ("losses", "metrics")}, first=training["generators"][:1])
    return kept


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "n_ranks"), [*CHOSEN, *FURTHER])
def test_ranks_have_the_validation_losses_of_one_process(
    release: str, n_ranks: int, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    (one,) = run(training_env, site, tmp_path / "one", ONE)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    ranks = run(training_env, site, tmp_path / "ranks", {**ONE, "devices": n_ranks, "strategy": "ddp"})

    assert len(ranks) == n_ranks
    assert one["failing"]["error"] == "ValueError: no loss"
    for name, training in one.items():
        expected = of_validations(training, name.startswith("drawing"))
        assert [of_validations(rank[name], name.startswith("drawing")) for rank in ranks] == [expected] * n_ranks, name
        for states in zip(*(rank[name]["generators"] for rank in ranks)):
            before, after = ({of_rank[place] for of_rank in states} for place in (0, -1))
            assert len(after) == 1 or len(before) > 1, f"the validation of {name} leaves the ranks different generators"
