"""Several ranks share the batches of a validation, and get the losses of one process, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import environment, invoke, long, run_ranks

SCRIPT = Path(__file__).parent / "validating.py"
ONE = {"accelerator": "cpu", "devices": 1}


# The release and the number of ranks
FURTHER = [(release, 2) for release in ("1.5.0", "1.7.4", "2.0.1", "3.0.2", "3.1.9", "3.2.1")]
CASES = [("3.3.0", 2), *(long(*each) for each in [("1.7.4", 3), ("3.3.0", 3), *FURTHER])]


def run(python: Path, site: Path, out: Path, trainer: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of each rank, by training."""
    code, results, output = run_ranks([python, SCRIPT, out, json.dumps(trainer)], out, environment(site))
    assert code == 0, output[-3000:]
    return results


def comparable(training: dict[str, Any], is_drawing: bool) -> dict[str, Any]:
    """The results that do not depend on the number of ranks; with random draws, those before the first step."""
    kept = {name: training[name] for name in ("losses", "metrics", "asked", "error")}
    if is_drawing:
        kept.update({name: training[name][:1] for name in ("losses", "metrics")}, first=training["generators"][:1])
    return kept


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "n_ranks"), CASES)
def test_ranks_get_the_validation_losses_of_one_process(
    release: str, n_ranks: int, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    (one,) = run(training_env, site, tmp_path / "one", ONE)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    ranks = run(training_env, site, tmp_path / "ranks", {**ONE, "devices": n_ranks, "strategy": "ddp"})

    assert len(ranks) == n_ranks
    assert one["failing"]["error"] == "ValueError: no loss"
    for name, training in one.items():
        expected = comparable(training, name.startswith("drawing"))
        assert [comparable(rank[name], name.startswith("drawing")) for rank in ranks] == [expected] * n_ranks, name
        for states in zip(*(rank[name]["generators"] for rank in ranks)):
            before, after = ({of_rank[place] for of_rank in states} for place in (0, -1))
            assert len(after) == 1 or len(before) > 1, f"the validation of {name} leaves different generator states"
