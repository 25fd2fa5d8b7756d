"""Installs from git, whose version is that of the release before their code.

They are made of released wheels, so that the expected bytes are known: the files of one release with some edits, and
the metadata of an earlier release.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import unpack
from support import all_states, answer, dist_info, invoke, long, snapshot

from nfpatch.catalog import ALREADY_FIXED, load_catalog
from nfpatch.installs.find import RUNTIME_FOLDER

COMMENT = b"\n# a fork\n"
APPLY = ("apply", "all", "--allow-modified", "--site-packages")


@pytest.fixture
def lagging(tmp_path: Path) -> Callable[[str, str], Path]:
    """Makes a site-packages folder with the code of a release, a comment added to each file, and an older version."""

    def make(version: str, code: str) -> Path:
        site, old = unpack(code, tmp_path / code), unpack(version, tmp_path / version)
        shutil.rmtree(dist_info(site))
        shutil.copytree(dist_info(old), site / dist_info(old).name)
        for file in load_catalog().files:
            if (site / file).exists():
                (site / file).write_bytes((site / file).read_bytes() + COMMENT)
        origin = {"url": "https://example.com/fork", "vcs_info": {"vcs": "git", "commit_id": "1" * 40}}
        (dist_info(site) / "direct_url.json").write_text(json.dumps(origin))
        return site

    return make


@pytest.mark.parametrize(
    ("version", "code", "fixed"),
    [
        long("1.6.4", "1.7.0", ["search-after-spawn"]),
        long("1.7.2", "1.7.3", ["spark-number-of-tasks"]),
        ("1.7.4", "1.7.5", ["tft-static-encoder"]),
        long("2.0.1", "3.0.0", []),
        ("3.2.0", "3.2.1", ["spark-predict-scalers", "spark-validation-loss"]),
    ],
)
def test_a_commit_gets_the_patches_that_fit_its_code_and_revert_restores_every_byte(
    version: str, code: str, fixed: list[str], lagging: Callable[[str, str], Path], tmp_path: Path
) -> None:
    site, expected = lagging(version, code), unpack(code, tmp_path / "expected")
    before, catalog = snapshot(site), load_catalog()
    needed = {patch.id for patch in catalog.patches if catalog.files_of(patch, code) and not patch.opt_in}
    status = answer("status", "--site-packages", site)["patches"]
    assert {patch["id"] for patch in status if patch["state"] == "modified"} >= needed
    assert [patch["id"] for patch in status if patch["reason"] == ALREADY_FIXED and patch["id"] in fixed] == fixed

    assert invoke(*APPLY, site).exit_code == 0

    states = all_states(site)
    assert {id_ for id_, state in states.items() if state == "applied"} == needed
    assert invoke("apply", "all", "--site-packages", expected).exit_code == 0
    written = {name for name, entry in snapshot(expected).items() if name.startswith("neuralforecast/")}
    # the variant of the older release fits there too, and has precedence
    own = {"neuralforecast/common/_base_auto.py"} if code == "3.2.1" else set()
    for name in written & set(catalog.files) - own:
        assert (site / name).read_bytes() == (expected / name).read_bytes() + COMMENT
    modules = {name for name in written if name.startswith(f"{RUNTIME_FOLDER}/")}
    assert modules == {name for name in snapshot(site) if name.startswith(f"{RUNTIME_FOLDER}/")}
    assert answer(*APPLY, site)["changed"] == []
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_a_patch_that_does_not_fit_does_not_block_the_others(lagging: Callable[[str, str], Path]) -> None:
    site = lagging("3.1.9", "3.2.0")
    file = site / "neuralforecast/core.py"
    file.write_bytes(file.read_bytes().replace(b"nf.scalers_ = {}", b"nf.scalers_ = dict()"))
    before = snapshot(site)
    refused = invoke(*APPLY, site)
    assert refused.exit_code == 3
    assert "spark-predict-scalers" in refused.stderr
    assert "--keep-going" in refused.stderr
    assert snapshot(site) == before
    result = invoke(*APPLY, site, "--keep-going", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [each["id"] for each in document["left_out"]] == ["spark-predict-scalers"]
    applied = {patch["id"] for patch in document["patches"] if patch["state"] == "applied"}
    catalog = load_catalog()
    needed = {patch.id for patch in catalog.patches if catalog.files_of(patch, "3.2.0") and not patch.opt_in}
    assert applied == needed - {"spark-predict-scalers"}
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before
