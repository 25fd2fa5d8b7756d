"""A search: all ranks try the same and choose the same, whatever is searched for and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import ALL_JOURNEYS, TORCHRUN, environment, invoke, run_ranks

HERE = Path(__file__).parent
SCRIPT = HERE / "searching.py"

ONE = {"accelerator": "cpu", "devices": 1}
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
BY_OPTIONS = (
    "failing",
    "drawing",
    "pruned",
    "with layers in the loss",
    "in threads",
    "for a time",
    "in a database",
    "on",
)


def run(
    site: Path, python: Path, out: Path, trainer: object, searches: Sequence[str], launcher: Sequence[str] = ()
) -> list[Any]:
    """What each process found, by search."""
    command = [python, *launcher, SCRIPT, out, json.dumps(trainer), *searches]
    code, told, words = run_ranks(command, out, environment(site, HERE))
    assert code == 0, words[-3000:]
    return told


@pytest.mark.ddp
def test_all_ranks_search_as_one(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> None:
    site = released("3.3.0")
    (before,) = run(site, training_env, tmp_path / "released", ONE, ["seeded"])
    assert invoke("apply", "--site-packages", site).exit_code == 0
    (one,) = run(site, training_env, tmp_path / "one", ONE, ["seeded", "unseeded"])
    assert one["seeded"] == before["seeded"], "one process finds what it found on the released source"
    first, second = run(site, training_env, tmp_path / "two", TWO, ["seeded", "unseeded", *BY_OPTIONS])
    assert first == second

    def params(search: dict[str, Any]) -> list[Any]:
        return [params for _, params, _ in search["trials"]]

    def states(name: str) -> list[str]:
        return [state for state, _, _ in first[name]["trials"]]

    assert params(first["seeded"]) == params(one["seeded"]), "the first trials of a seeded sampler hang on no loss"
    assert params(first["unseeded"]) != params(one["unseeded"])
    assert states("failing") == ["COMPLETE", "FAIL", "COMPLETE"]
    assert states("pruned")[:2] == ["COMPLETE", "PRUNED"]
    assert 0 < len(states("for a time")) < 1000
    assert first["in a database"]["trials"] == first["on"]["trials"][:3]
    assert states("on") == ["COMPLETE"] * 6


@pytest.mark.ddp
@pytest.mark.skipif(not ALL_JOURNEYS, reason="`make journeys` runs it")
def test_ranks_of_torch_search_as_one_in_the_first_release_that_searches(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("1.7.0")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    first, second = run(site, training_env, tmp_path / "two", TWO, ["unseeded"], TORCHRUN)
    assert first == second


@pytest.mark.ddp
def test_through_ray_the_first_rank_searches_and_each_trial_has_a_device(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("3.1.9")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    command = [training_env, HERE / "searching_through_ray.py", tmp_path / "two"]
    code, told, words = run_ranks(command, tmp_path / "two", {**environment(site, HERE), "HOME": str(tmp_path)})
    assert code == 0, words[-3000:]
    first, second = told
    assert first == second
    assert (len(first["trials"]), first["world"]) == (2, 2)
