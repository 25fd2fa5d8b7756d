"""Every release of neuralforecast, unpacked from its real wheel."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from releases import RELEASES
from support import (
    EACH_RELEASE,
    MISSION,
    NBEATSX,
    TFT,
    all_states,
    answer,
    false_record_rows,
    invoke,
    snapshot,
    states,
    unlisted_files,
)

from nfpatch.catalog import Patch, load_catalog
from nfpatch.installs.find import module_file

GUARDS = {"1.0.0": "num_static_vars > 0", "1.7.3": "self.stat_exog_size > 0", "1.7.4": "self.stat_exog_size > 0"}


# Patch -> the first and the last release that need it.
HISTORY = {
    "dilatedrnn-residual-weight": ("1.0.0", "3.3.0"),
    "error-on-one-rank": ("1.0.0", "3.3.0"),
    "fedformer-projections": ("1.6.0", "3.3.0"),
    "fork-after-threads": ("1.5.0", "3.3.0"),
    "load-on-fewer-devices": ("1.1.0", "3.3.0"),
    "saved-callbacks": ("1.1.0", "3.3.0"),
    "strategy-object": ("1.0.0", "3.3.0"),
    "trajectories-after-spawn": ("1.4.0", "3.3.0"),
    "windows-of-each-rank": ("1.0.0", "3.3.0"),
    "batch-norm-of-one-rank": ("1.5.0", "3.3.0"),
    "multivariate-all-series": ("1.5.0", "3.3.0"),
    "nbeatsx-unused-out": ("1.2.0", "1.7.5"),
    "nhits-unused-out": ("1.1.0", "1.1.0"),
    "predict-on-one-device": ("1.0.0", "3.3.0"),
    "rmok-wavelet-weight": ("1.7.5", "3.3.0"),
    "search-after-spawn": ("1.6.4", "1.6.4"),
    "drop-last-loader": ("1.0.0", "3.3.0"),
    "ray-trial-on-one-device": ("1.0.0", "3.3.0"),
    "search-by-one-rank": ("1.0.0", "3.3.0"),
    "save-by-one-rank": ("1.1.0", "3.3.0"),
    "scaler-revin": ("1.6.4", "3.3.0"),
    "softssharp-position-scale": ("3.1.9", "3.3.0"),
    "spark-dbfs-paths": ("1.7.1", "3.3.0"),
    "spark-fit-from-weights": ("1.7.1", "3.3.0"),
    "spark-number-of-tasks": ("1.7.1", "1.7.2"),
    "spark-predict-scalers": ("3.1.4", "3.2.0"),
    "spark-series-of-ranks": ("1.7.1", "3.3.0"),
    "spark-trainer-arguments": ("1.7.1", "3.3.0"),
    "spark-validation-loss": ("1.7.1", "3.2.0"),
    "stemgnn-backcast": ("1.5.0", "3.3.0"),
    "tft-static-context": ("1.0.0", "3.3.0"),
    "tft-static-encoder": ("1.0.0", "1.7.4"),
    "tide-historic-projection": ("1.7.2", "3.3.0"),
    "timemixer-channel-mixing": ("1.7.4", "3.3.0"),
    "timemixer-unused-norm": ("1.7.4", "3.3.0"),
    "valid-loss-parameters": ("1.7.3", "3.3.0"),
    "validation-of-all-series": ("1.0.0", "3.3.0"),
}


def is_needed(patch: str, release: str) -> bool:
    first, last = HISTORY[patch]
    return RELEASES.index(first) <= RELEASES.index(release) <= RELEASES.index(last)


def written_for(patches: Sequence[Patch], release: str) -> list[str]:
    """The files that these patches rewrite and the runtime modules that they need, by path."""
    catalog = load_catalog()
    files = {file for patch in patches for file in catalog.files_of(patch, release)}
    modules = {name for patch in patches for name in catalog.modules_for(patch, release)}
    return sorted({*files, *map(module_file, modules)})


def added_and_removed(before: bytes, after: bytes) -> tuple[list[str], list[str]]:
    lines = list(difflib.ndiff(before.decode().splitlines(), after.decode().splitlines()))
    return (
        [line[2:] for line in lines if line.startswith("+ ")],
        [line[2:] for line in lines if line.startswith("- ")],
    )


@pytest.mark.parametrize("release", EACH_RELEASE)
def test_status_matches_the_release_history(release: str, released: Callable[[str], Path]) -> None:
    catalog = load_catalog()
    opt_in = {
        patch.id: "opt-in" if catalog.files_of(patch, release) else "not-needed"
        for patch in catalog.patches
        if patch.opt_in
    }
    assert all_states(released(release)) == opt_in | {
        patch: "applicable" if is_needed(patch, release) else "not-needed" for patch in HISTORY
    }


@pytest.mark.parametrize("release", ["1.0.0", "1.1.0", "1.7.4", "3.3.0"])
def test_apply_patches_every_release_and_revert_restores_every_byte(
    release: str, released: Callable[[str], Path]
) -> None:
    site = released(release)
    before = snapshot(site)
    needed = [patch for patch in load_catalog().default if is_needed(patch.id, release)]

    document = answer("apply", "--site-packages", site)

    assert document["changed"] == written_for(needed, release)
    assert {id_ for id_, state in all_states(site).items() if state == "applied"} == {patch.id for patch in needed}
    assert invoke("status", "--check", "--site-packages", site).exit_code == 0
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])
    for file in document["changed"]:
        compile((site / file).read_bytes(), file, "exec")
    patched = snapshot(site)
    assert answer("apply", "--site-packages", site)["changed"] == []
    assert snapshot(site) == patched
    assert answer("revert", "--site-packages", site)["changed"] == document["changed"]
    assert snapshot(site) == before


@pytest.mark.parametrize("release", EACH_RELEASE)
def test_two_patches_change_only_their_files_and_revert_restores_every_byte(
    release: str, released: Callable[[str], Path]
) -> None:
    site = released(release)
    before = snapshot(site)

    document = answer("apply", *MISSION, "--site-packages", site)
    patched = snapshot(site)
    needed = {NBEATSX: is_needed("nbeatsx-unused-out", release), TFT: is_needed("tft-static-encoder", release)}
    assert document["changed"] == [file for file in (NBEATSX, TFT) if needed[file]]
    own = ".dist-info/nfpatch"
    assert {path for path in patched if own not in path and patched[path] != before.get(path)} == {
        path
        for path in before
        if path in document["changed"] or (document["changed"] and path.endswith(".dist-info/RECORD"))
    }
    for file in document["changed"]:
        compile(patched[file].content, file, "exec")
    if needed[NBEATSX]:
        added, removed = added_and_removed(before[NBEATSX].content, patched[NBEATSX].content)
        assert added == []
        assert [line.strip() for line in removed] == [
            "# Adapter with Loss dependent dimensions",
            "if self.loss.outputsize_multiplier > 1:",
            "self.out = nn.Linear(",
            "in_features=h, out_features=h * self.loss.outputsize_multiplier",
            ")",
            "",
        ]
    if needed[TFT]:
        added, removed = added_and_removed(before[TFT].content, patched[TFT].content)
        assert added[0] == f"        if {GUARDS.get(release, 'stat_input_size > 0')}:"
        assert added[1:] == ["    " + line for line in removed]
    assert false_record_rows(site) == []
    assert unlisted_files(site) == []
    assert "applicable" not in states(site, MISSION).values()

    assert answer("apply", *MISSION, "--site-packages", site)["changed"] == []
    assert snapshot(site) == patched

    assert answer("revert", "--site-packages", site)["changed"] == document["changed"]
    assert snapshot(site) == before


@pytest.mark.parametrize(
    ("release", "fixed_in", "file"), [("1.7.4", "1.7.5", TFT), ("1.7.5", "1.7.6", NBEATSX)], ids=["tft", "nbeatsx"]
)
def test_a_patched_file_differs_from_upstreams_fix_only_in_unrelated_changes(
    release: str, fixed_in: str, file: str, released: Callable[[str], Path]
) -> None:
    site, upstream = released(release), (released(fixed_in) / file).read_text().splitlines()
    unpatched = (site / file).read_text().splitlines()
    invoke("apply", *MISSION, "--site-packages", site)
    patched = (site / file).read_text().splitlines()

    def hunks(one: list[str], other: list[str]) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
        matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
        return {(tuple(one[a:b]), tuple(other[c:d])) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"}

    assert len(hunks(unpatched, upstream) - hunks(patched, upstream)) == 1, "the patch makes one of upstream's changes"
    assert hunks(patched, upstream) < hunks(unpatched, upstream), "and no others"


def test_each_patch_has_exactly_one_variant_or_reason_per_release() -> None:
    from packaging.specifiers import SpecifierSet

    for patch in load_catalog().patches:
        for release in RELEASES:
            claims = [spec for spec in (*patch.variants, *patch.unaffected) if SpecifierSet(spec).contains(release)]
            assert len(claims) == 1, f"{patch.id} on {release}: {claims}"


def test_the_used_out_layer_of_1_1_0_is_kept(released: Callable[[str], Path]) -> None:
    site = released("1.1.0")
    result = invoke("apply", "nbeatsx-unused-out", "--site-packages", site)
    assert result.exit_code == 0
    assert b"self.out(forecast)" in (site / NBEATSX).read_bytes()
