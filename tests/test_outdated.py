"""An install that an older nfpatch has patched, with another hook and another runtime module."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from fake_releases import read_member, unpack
from support import all_states, answer, false_record_rows, invoke, snapshot, unlisted_files

from nfpatch.catalog import Catalog, load_catalog
from nfpatch.fingerprints import RecordedEdit, RecordedPatch
from nfpatch.installs.find import module_file
from nfpatch.patching.edits import digest_inserted_text
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile

pytestmark = pytest.mark.fake_releases

RELEASE = "1.7.4"
# A patch of one file whose hook differs, and a differing module that several patches need, also Spark ones.
PATCH, MODULE = "tide-historic-projection", "ranks"


def older_catalog() -> Catalog:
    """Today's catalog with an older hook and an older module."""
    now = load_catalog()
    (patch,) = now.select([PATCH])
    (file,) = now.files_of(patch, RELEASE)
    rewrite = now.rewrites_for(patch, RELEASE)[file]
    (change,) = rewrite.changes
    assert change.new is not None
    hook = f"{dedent(change.new).strip()}\nself.was_different = True\n"
    older = rewrite._replace(changes=(change._replace(new=hook),))
    source = read_member(RELEASE, file)
    assert source is not None
    edits = edits_of(older, SourceFile(source))
    places = tuple(RecordedEdit(edit.start, edit.stop, len(edit.new), "", "") for edit in edits)
    known = now.fingerprints.file(RELEASE, file)
    assert known is not None
    recorded_patches = {**known.patches, PATCH: RecordedPatch(digest_inserted_text(edits), (), places)}
    recorded = known._replace(releases=(RELEASE,), patches=recorded_patches)
    record = now.fingerprints._replace(files={**now.fingerprints.files, file: (recorded,)})
    older_patch = patch._replace(variants={f"=={RELEASE}": {file: older}}, unaffected={f"!={RELEASE}": "left out"})
    patches = tuple(older_patch if each.id == PATCH else each for each in now.patches)
    modules = {**now.modules, MODULE: now.modules[MODULE] + b"WAS_DIFFERENT = True\n"}
    return now._replace(patches=patches, fingerprints=record, modules=modules)


@pytest.fixture
def patched_before(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """1.7.4 as patched by the older version, Spark included."""
    older = older_catalog()
    with monkeypatch.context() as patching:
        patching.setattr("nfpatch.commands.options.load_catalog", lambda folders: older)
        for groups in ((), ("spark",)):
            assert invoke("apply", *groups, "--site-packages", site).exit_code == 0
        assert invoke("status", "--check", "--site-packages", site).exit_code == 0
    assert b"was_different" in (site / "neuralforecast/models/tide.py").read_bytes()
    assert b"WAS_DIFFERENT" in (site / module_file(MODULE)).read_bytes()
    return site


def users_of_module() -> set[str]:
    now = load_catalog()
    return {patch.id for patch in now.patches if not patch.opt_in and MODULE in now.modules_for(patch, RELEASE)}


def test_status_shows_outdated_patches_and_check_fails(patched_before: Path) -> None:
    before = snapshot(patched_before)
    outdated = {patch for patch, state in all_states(patched_before).items() if state == "outdated"}
    assert outdated == {PATCH} | users_of_module()
    assert any(patch.startswith("spark-") for patch in outdated)
    checked = invoke("status", "--check", "--site-packages", patched_before)
    assert checked.exit_code == 1
    assert "outdated" in checked.stdout
    assert snapshot(patched_before) == before


def test_apply_updates_outdated_patches_and_revert_restores_the_originals(patched_before: Path, tmp_path: Path) -> None:
    changed = answer("apply", "--site-packages", patched_before)["changed"]
    assert changed == sorted(["neuralforecast/models/tide.py", module_file(MODULE)])
    assert invoke("status", "--check", "--site-packages", patched_before).exit_code == 0
    assert (false_record_rows(patched_before), unlisted_files(patched_before)) == ([], [])
    assert answer("apply", "--site-packages", patched_before)["changed"] == []

    renewed = snapshot(patched_before)
    assert invoke("revert", "--site-packages", patched_before).exit_code == 0
    assert snapshot(patched_before) == snapshot(unpack(RELEASE, tmp_path / "again"))
    for groups in ((), ("spark",)):
        assert invoke("apply", *groups, "--site-packages", patched_before).exit_code == 0
    assert snapshot(patched_before) == renewed


def test_revert_works_without_the_older_catalog(patched_before: Path, tmp_path: Path) -> None:
    assert invoke("revert", "--site-packages", patched_before).exit_code == 0
    assert snapshot(patched_before) == snapshot(unpack(RELEASE, tmp_path / "again"))


def test_dry_run_shows_the_difference(patched_before: Path) -> None:
    before = snapshot(patched_before)
    diff = invoke("apply", "--dry-run", "--site-packages", patched_before).stdout
    assert {line for line in diff.splitlines() if line.startswith(("-", "+")) and line[:3] not in ("---", "+++")} == {
        "-            self.was_different = True",
        "-WAS_DIFFERENT = True",
    }
    assert snapshot(patched_before) == before
