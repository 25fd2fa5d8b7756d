"""Special trainings, which fail with the released source and work with the patched one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import answer

pytestmark = pytest.mark.ddp

# Patch -> part of the released source's error; None if its ranks would hang.
AS_RELEASED = {
    "drop-last-loader": "fit has returned an untrained model",
    "error-on-one-rank": None,
    "load-on-fewer-devices": "You requested gpu",
    "strategy-object": "accelerator set through both strategy class and accelerator flag",
    "windows-of-each-rank": "ranks train on the same windows of a series",
}
RELEASES = {"1.7.4": {}, "3.3.0": {"multivariate-one-order": "the series came in 2 orders"}}


@pytest.mark.parametrize("release", RELEASES)
def test_each_fails_unpatched_and_passes_patched(
    release: str, released: Callable[[str], Path], training_env: Path
) -> None:
    due = {**AS_RELEASED, **RELEASES[release]}
    proof = answer("verify", "--preview", *due, "--python", training_env, "--site-packages", released(release))

    assert proof["ok"], [case for case in proof["cases"] if not case["ok"]]
    stages = [case for case in proof["cases"] if case["stage"] != "fit"]
    passed = {case["patch"] for case in stages if case["source"] == "patched" and case["outcome"] == "pass"}
    assert passed == set(due)
    original = {case["patch"]: case["detail"] for case in stages if case["source"] == "released"}
    assert {patch for patch, words in due.items() if words and words in original[patch]} | {
        "error-on-one-rank"
    } == passed


def test_trajectories_of_a_notebook_training_are_kept(released: Callable[[str], Path], training_env: Path) -> None:
    site = released("3.3.0")
    patch = ("trajectories-after-spawn", "--launcher", "fork")
    proof = answer("verify", "--preview", *patch, "--python", training_env, "--site-packages", site)

    assert proof["ok"], proof["cases"]
    found = {case["source"]: case["detail"] for case in proof["cases"] if case["stage"] == "trajectories"}
    assert "train_trajectories has []" in found["released"]
    assert found["patched"] == ""
