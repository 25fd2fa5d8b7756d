"""All ranks of a hyperparameter search run the same trials and choose the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import OLD_PYTHON, PRETENDED, TORCHRUN, environment, invoke, long, run_ranks

HERE = Path(__file__).parent
SCRIPT = HERE / "searching.py"

ONE = {"accelerator": "cpu", "devices": 1}
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
BY_OPTIONS = (
    "failing",
    "failing on one rank",
    "failing in a step",
    "drawing",
    "pruned",
    "with layers in the loss",
    "in threads",
    "for a time",
    "in a database",
    "in the same database",
)


def run(
    site: Path, python: Path, out: Path, trainer: object, searches: Sequence[str], launcher: Sequence[str] = ()
) -> list[Any]:
    """The results of each process, by search."""
    command = [python, *launcher, SCRIPT, out, json.dumps(trainer), *searches]
    code, results, output = run_ranks(command, out, environment(site, HERE))
    assert code == 0, output[-3000:]
    return results


@pytest.mark.ddp
def test_all_ranks_run_the_same_search(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> None:
    site = released("3.3.0")
    (before,) = run(site, training_env, tmp_path / "released", ONE, ["seeded"])
    assert invoke("apply", "--site-packages", site).exit_code == 0
    (one,) = run(site, training_env, tmp_path / "one", ONE, ["seeded", "unseeded"])
    assert one["seeded"] == before["seeded"], "a single process finds the same as with the unpatched source"
    first, second = run(site, training_env, tmp_path / "two", TWO, ["seeded", "unseeded", *BY_OPTIONS])
    assert first == second

    def params(search: dict[str, Any]) -> list[Any]:
        return [params for _, params, _ in search["trials"]]

    def states(name: str) -> list[str]:
        return [state for state, _, _ in first[name]["trials"]]

    assert params(first["seeded"]) == params(one["seeded"]), "a seeded sampler's first trials depend on no loss"
    assert params(first["unseeded"]) != params(one["unseeded"])
    for name in ("failing", "failing on one rank", "failing in a step"):
        assert states(name) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert states("pruned")[:2] == ["COMPLETE", "PRUNED"]
    assert 0 < len(states("for a time")) < 1000
    assert first["in a database"]["trials"] == first["in the same database"]["trials"][:3]
    assert states("in the same database") == ["COMPLETE"] * 6


@pytest.mark.ddp
@pytest.mark.long
def test_all_ranks_run_the_same_search_in_the_first_release_with_optuna(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("1.7.0")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    first, second = run(site, training_env, tmp_path / "two", TWO, ["unseeded"], TORCHRUN)
    assert first == second


RELEASES_THROUGH_RAY = ("1.5.0", "1.6.3", "1.7.4", "2.0.1", "3.1.9", "3.2.0", "3.3.0")


def search_through_ray(site: Path, python: Path, out: Path, devices: str) -> tuple[int, list[Any], str]:
    """The exit code of a search on these devices, the results of each process, and the output."""
    command = [python, HERE / "searching_through_ray.py", out, devices]
    return run_ranks(command, out, {**environment(site, HERE, PRETENDED), "HOME": str(out)})


@pytest.mark.ddp
@pytest.mark.parametrize("release", [each if each == "3.1.9" else long(each) for each in RELEASES_THROUGH_RAY])
def test_with_ray_rank_0_searches_and_each_trial_has_a_device(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    check_both_ranks_find_the_same(site, training_env, tmp_path / "gpus", "gpus")
    if release >= "1.7":  # trials of earlier releases run without the callback that writes this
        assert sorted(path.name for path in (tmp_path / "gpus").glob("trial-*")) == ["trial-on-0", "trial-on-1"]


@pytest.mark.ddp
@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES_THROUGH_RAY)
def test_with_ray_a_single_process_finds_the_same_as_with_the_unpatched_source(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    code, _, output = search_through_ray(site, training_env, tmp_path / "released", "two")
    assert code != 0
    assert "ActorDiedError" in output
    before = search_through_ray(site, training_env, tmp_path / "before", "one")[1]
    assert invoke("apply", "--site-packages", site).exit_code == 0
    assert search_through_ray(site, training_env, tmp_path / "one", "one")[1] == before
    check_both_ranks_find_the_same(site, training_env, tmp_path / "two", "two")


def check_both_ranks_find_the_same(site: Path, python: Path, out: Path, devices: str) -> None:
    """Runs a search on these devices with a patched install."""
    code, results, output = search_through_ray(site, python, out, devices)
    assert code == 0, output[-3000:]
    first, second = results
    assert first == second
    assert (len(first["trials"]), first["world"]) == (2, 2)


@pytest.mark.ddp
@pytest.mark.skipif(OLD_PYTHON is None, reason="NFPATCH_OLD_PYTHON names no interpreter with Lightning 1.6.5")
@pytest.mark.parametrize("release", ["1.1.0", "1.4.0"])
def test_with_ray_in_releases_that_need_lightning_1(
    release: str, released: Callable[[str], Path], tmp_path: Path
) -> None:
    site = released(release)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    for devices in ("two", "gpus"):
        check_both_ranks_find_the_same(site, Path(str(OLD_PYTHON)), tmp_path / devices, devices)
