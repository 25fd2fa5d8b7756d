"""Several patches of one file: the bytes depend only on the set of applied patches."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import remembered_edits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import TFT, false_record_rows, invoke, snapshot, unlisted_files

from nfpatch.catalog import load_catalog

pytestmark = pytest.mark.fake_releases

TIMEMIXER = "neuralforecast/models/timemixer.py"
WINDOWS, RECURRENT = (f"neuralforecast/common/_base_{name}.py" for name in ("windows", "recurrent"))
FILES = {
    TFT: ("tft-static-context", "tft-static-encoder"),
    WINDOWS: ("predict-on-one-device", "scaler-revin"),
    RECURRENT: ("predict-on-one-device", "scaler-revin"),
    TIMEMIXER: ("timemixer-channel-mixing", "timemixer-unused-norm"),
}
PATCHES = sorted({patch for patches in FILES.values() for patch in patches})
STEPS = st.tuples(st.sampled_from(["apply", "revert"]), st.sets(st.sampled_from(PATCHES), min_size=1))


def test_the_models_with_several_patches_are_known() -> None:
    catalog = load_catalog()
    files = {file: catalog.fingerprints.file("1.7.4", file) for file in catalog.files if "/models/" in file}
    several = {file: tuple(known.patches) for file, known in files.items() if known and len(known.patches) > 1}
    assert several == {file: patches for file, patches in FILES.items() if "/models/" in file}


@pytest.mark.slow
def test_any_order_of_commands_to_a_set_of_patches_gives_the_same_bytes(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfpatch.patching.rewriting.edits_of", remembered_edits)
    catalog, released = load_catalog(), snapshot(site)
    trees = {frozenset[str](): released}

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(STEPS, min_size=1, max_size=5))
    def holds(steps: list[tuple[str, set[str]]]) -> None:
        invoke("revert", "--site-packages", site)  # after an example that failed
        applied: set[str] = set()
        for command, patches in steps:
            assert invoke(command, *sorted(patches), "--site-packages", site).exit_code == 0
            if command == "apply":
                applied = applied | catalog.with_required(patches)
            else:
                applied = applied - catalog.with_requiring(patches)
            tree = snapshot(site)
            assert trees.setdefault(frozenset(applied), tree) == tree, "the tree depends only on the set"
            for file, patches_of_file in FILES.items():
                known = catalog.fingerprints.file("1.7.4", file)
                assert known is not None
                assert known.detect_patches((site / file).read_bytes()) == applied.intersection(patches_of_file)
            assert (false_record_rows(site), unlisted_files(site)) == ([], [])
        assert invoke("revert", "--site-packages", site).exit_code == 0
        assert snapshot(site) == released

    holds()
    assert len(trees) > 6, "too few sets were reached"
