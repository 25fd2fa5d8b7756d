"""Trainings that go another way: what is wrong in them as released is shown, and that it is healed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import answer

pytestmark = pytest.mark.ddp

# Patch -> words of what the original ends with; None where its ranks would wait for each other for ever.
AS_RELEASED = {
    "drop-last-loader": "fit has returned an untrained model",
    "error-on-one-rank": None,
    "load-on-fewer-devices": "You requested gpu",
    "strategy-object": "accelerator set through both strategy class and accelerator flag",
    "windows-of-each-rank": "ranks train on the same windows of a series",
}
RELEASES = {"1.7.4": {}, "3.3.0": {"multivariate-one-order": "the series came in 2 orders"}}


@pytest.mark.parametrize("release", RELEASES)
def test_each_shows_its_fault_and_is_healed(release: str, released: Callable[[str], Path], training_env: Path) -> None:
    due = {**AS_RELEASED, **RELEASES[release]}
    proof = answer("verify", "--preview", *due, "--python", training_env, "--site-packages", released(release))

    assert proof["ok"], [case for case in proof["cases"] if not case["ok"]]
    stages = [case for case in proof["cases"] if case["stage"] != "fit"]
    healed = {case["patch"] for case in stages if case["source"] == "patched" and case["outcome"] == "pass"}
    assert healed == set(due)
    original = {case["patch"]: case["detail"] for case in stages if case["source"] == "released"}
    assert {patch for patch, words in due.items() if words and words in original[patch]} | {
        "error-on-one-rank"
    } == healed


def test_the_losses_of_a_notebooks_training_are_kept(released: Callable[[str], Path], training_env: Path) -> None:
    site = released("3.3.0")
    patch = ("trajectories-after-spawn", "--launcher", "fork")
    proof = answer("verify", "--preview", *patch, "--python", training_env, "--site-packages", site)

    assert proof["ok"], proof["cases"]
    found = {case["source"]: case["detail"] for case in proof["cases"] if case["stage"] == "trajectories"}
    assert "train_trajectories has []" in found["released"]
    assert found["patched"] == ""
