"""Installs that nfpatch 0.1.0 healed: the bytes are the same today, and its ledgers are understood."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import RELEASES, read_member
from support import ROOT, all_states, answer, dist_info, false_record_rows, invoke, snapshot, unlisted_files

from nfpatch.catalog import load_catalog
from nfpatch.installs.ledger import hash_of
from nfpatch.patching.edits import spliced
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import Source

WRITTEN = ROOT / "tests" / "data" / "written-by-0.1.0"
FILES: dict[str, dict[str, str]] = json.loads((WRITTEN / "files.json").read_text())
# What it could heal, by the ids of today.
PATCHES = (
    *("dilatedrnn-residual-weight", "fedformer-projections", "nbeatsx-unused-out", "nhits-unused-out"),
    *("rmok-wavelet-weight", "scaler-revin", "softssharp-position-scale", "stemgnn-backcast", "tft-static-context"),
    *("tft-static-encoder", "tide-historic-projection", "timemixer-channel-mixing", "timemixer-unused-norm"),
)
OLD_NAMES = ("scaler-revin-recurrent", "scaler-revin-windows")


@pytest.mark.parametrize("release", RELEASES)
def test_what_it_wrote_is_written_today_bit_for_bit(release: str) -> None:
    catalog = load_catalog()
    healed = {}
    for file in catalog.files:
        source = read_member(release, file)
        rewrites = {
            patch.id: rewrite
            for patch in catalog.select(PATCHES)
            if (rewrite := catalog.rewrites_for(patch, release).get(file)) is not None
        }
        if source is not None and rewrites:
            module = Source(source)
            healed[file] = hash_of(spliced(source, {i: edits_of(r, module, True) for i, r in rewrites.items()}))
    assert healed == FILES[release]


def left_by_it(site: Path, name: str, patches: tuple[str, ...], released: Path) -> Path:
    """Makes `site` what 0.1.0 left, with its own ledger and RECORD, where it had applied these patches."""
    shutil.copytree(released, site)
    assert invoke("apply", *patches, "--site-packages", site).exit_code == 0
    shutil.copy(WRITTEN / name / "ledger.json", dist_info(site) / "nfpatch" / "ledger.json")
    shutil.copy(WRITTEN / name / "RECORD", dist_info(site) / "RECORD")
    for file in {*load_catalog().files} - json.loads((WRITTEN / name / "ledger.json").read_text())["files"].keys():
        original = dist_info(site) / "nfpatch" / "originals" / f"{file}.orig"
        if original.exists():  # of a patch that was in this file only from now on
            os.replace(original, site / file)
    assert (false_record_rows(site), unlisted_files(site)) == ([], []), "its RECORD fits the tree"
    return site


@pytest.fixture(params=["1.7.4", "2.0.1", "3.3.0"])
def healed_by_it(request: pytest.FixtureRequest, released: Callable[[str], Path]) -> tuple[Path, Path]:
    """A released tree, and one as 0.1.0 left it."""
    site = released(request.param)
    return site, left_by_it(site.with_name("healed"), request.param, PATCHES, site)


def test_status_apply_and_revert_go_on_where_it_stopped(healed_by_it: tuple[Path, Path]) -> None:
    site, healed = healed_by_it
    its_own = snapshot(healed)
    states = all_states(healed)
    assert states["scaler-revin"] == "applied"
    assert {states[patch] for patch in PATCHES} == {"applied", "not-needed"}

    assert answer("apply", *PATCHES, "--site-packages", healed)["changed"] == []
    assert snapshot(healed) == its_own
    assert invoke("revert", "--site-packages", healed).exit_code == 0
    assert snapshot(healed) == snapshot(site)


def test_one_patch_is_taken_out_by_its_old_names_and_put_back(healed_by_it: tuple[Path, Path]) -> None:
    site, healed = healed_by_it
    for name in OLD_NAMES:
        assert invoke("revert", name, "--site-packages", healed).exit_code == 0
        assert all_states(healed)["scaler-revin"] == "applicable"
    assert (false_record_rows(healed), unlisted_files(healed)) == ([], [])
    assert answer("apply", OLD_NAMES[0], "--site-packages", healed)["changed"]
    assert all_states(healed)["scaler-revin"] == "applied"
    assert invoke("revert", "--site-packages", healed).exit_code == 0
    assert snapshot(healed) == snapshot(site)


def test_half_of_what_is_one_patch_today_is_told_completed_and_taken_back(site: Path) -> None:
    one, other = (f"neuralforecast/common/_base_{name}.py" for name in ("recurrent", "windows"))
    half = left_by_it(site.with_name("half"), "1.7.4-recurrent-only", ("scaler-revin",), site)
    assert ((half / one).read_bytes(), (half / other).read_bytes()) != ((site / one).read_bytes(),) * 2

    (status,) = (
        patch for patch in answer("status", "--site-packages", half)["patches"] if patch["id"] == "scaler-revin"
    )
    assert (status["state"], status["files"]) == ("applicable", [one, other])
    assert f"(in {other})" in status["reason"]

    completed, whole = site.with_name("completed"), site.with_name("whole")
    shutil.copytree(half, completed)
    assert answer("apply", "scaler-revin", "--site-packages", completed)["changed"] == [other]
    shutil.copytree(site, whole)
    assert invoke("apply", "scaler-revin", "--site-packages", whole).exit_code == 0
    assert snapshot(completed) == snapshot(whole)
    assert answer("revert", "scaler-revin", "--site-packages", half)["changed"] == [one]
    assert snapshot(half) == snapshot(site)
