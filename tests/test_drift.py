"""Changes to an install between two commands: each has a state, an exit code, and an error that names the path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_releases import contents_of, unpack
from support import (
    NBEATSX,
    PACKAGE_OF_MODULES,
    PLACEMENT,
    SOME_PATCHES,
    TFT,
    answer,
    dist_info,
    false_record_rows,
    invoke,
    on_some,
    snapshot,
    states,
    unlisted_files,
)

pytestmark = pytest.mark.fake_releases

Drift = Callable[[Path], None]


@pytest.fixture
def patched(site: Path) -> Path:
    """A site-packages folder with both patches applied."""
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    return site


def edited(path: Path) -> bytes:
    path.write_bytes(path.read_bytes() + b"# an edit\n")
    return path.read_bytes()


def ledger(site: Path) -> Path:
    return dist_info(site) / "nfpatch" / "ledger.json"


def change_ledger(change: Callable[[dict[str, object]], object]) -> Drift:
    def drift(site: Path) -> None:
        document = json.loads(ledger(site).read_text())
        change(document)
        ledger(site).write_text(json.dumps(document))

    return drift


# --- edits ---


CHANGED_FILES = {TFT: "tft-static-encoder", PLACEMENT: "load-on-fewer-devices"}


@pytest.mark.parametrize("file", CHANGED_FILES)
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_an_edit_after_apply_is_overwritten_only_by_force_which_keeps_a_copy(
    command: str, file: str, patched: Path
) -> None:
    untouched = snapshot(patched)
    edit = edited(patched / file)
    before = snapshot(patched)
    assert states(patched)[CHANGED_FILES[file]] == "modified"

    refused = invoke(*on_some(command), "--site-packages", patched)
    assert refused.exit_code == 3
    assert str(patched / file) in refused.stderr
    assert "--force" in refused.stderr
    assert snapshot(patched) == before

    document = answer(*on_some(command), "--force", "--site-packages", patched)
    copy = patched / f"{file}.nfpatch-saved"
    assert document["backups"] == [str(copy)]
    assert copy.read_bytes() == edit
    copy.unlink()
    invoke("apply", *SOME_PATCHES, "--site-packages", patched)
    assert snapshot(patched) == untouched


@pytest.mark.parametrize("changed", CHANGED_FILES)
def test_force_never_overwrites_an_earlier_copy(changed: str, patched: Path) -> None:
    copies = []
    for _ in range(3):
        copies.append(edited(patched / changed))
        result = invoke("apply", *SOME_PATCHES, "--force", "--site-packages", patched)
        assert result.exit_code == 0
        assert "nfpatch-saved" in result.stdout
    names = ["nfpatch-saved", "nfpatch-saved-2", "nfpatch-saved-3"]
    assert [(patched / f"{changed}.{name}").read_bytes() for name in names] == copies


@pytest.mark.parametrize("file", CHANGED_FILES)
def test_a_file_removed_after_apply_is_restored_only_by_force(file: str, patched: Path) -> None:
    before = snapshot(patched)
    (patched / file).unlink()
    assert states(patched)[CHANGED_FILES[file]] == "modified"
    assert invoke("apply", *SOME_PATCHES, "--site-packages", patched).exit_code == 3
    assert invoke("apply", *SOME_PATCHES, "--force", "--site-packages", patched).exit_code == 0
    assert snapshot(patched) == before


def test_revert_works_after_an_added_file_was_removed(released: Callable[[str], Path]) -> None:
    site = released("1.7.4")
    before = snapshot(site)
    invoke("apply", *SOME_PATCHES, "--site-packages", site)
    shutil.rmtree(site / PACKAGE_OF_MODULES)
    assert states(site)["load-on-fewer-devices"] == "modified"
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_a_foreign_file_among_the_added_ones_is_kept(released: Callable[[str], Path]) -> None:
    site = released("1.7.4")
    before = snapshot(site)
    invoke("apply", *SOME_PATCHES, "--site-packages", site)
    mine = site / PACKAGE_OF_MODULES / "mine.py"
    mine.write_text("mine = True\n")
    assert set(states(site).values()) == {"applied"}
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert [path.name for path in mine.parent.iterdir()] == ["mine.py"]
    shutil.rmtree(mine.parent)
    assert snapshot(site) == before


def test_force_does_not_apply_to_a_file_modified_before_apply(site: Path) -> None:
    edited(site / TFT)
    before = snapshot(site)
    assert invoke("apply", *SOME_PATCHES, "--force", "--site-packages", site).exit_code == 3
    assert snapshot(site) == before


# --- the ledger ---

DAMAGES: dict[str, tuple[Drift, str]] = {
    "truncated": (lambda site: ledger(site).write_bytes(ledger(site).read_bytes()[:100]) and None, "ledger.json"),
    "empty": (lambda site: ledger(site).write_bytes(b"") and None, "ledger.json"),
    "not an object": (lambda site: ledger(site).write_text("[1, 2]") and None, "ledger.json"),
    "not UTF-8": (lambda site: ledger(site).write_bytes(b"\xff\x00") and None, "ledger.json"),
    "without a field": (change_ledger(lambda document: document.pop("files")), "ledger.json"),
    "from a newer nfpatch": (change_ledger(lambda document: document.update(schema=99, nfpatch="9.9")), "nfpatch 9.9"),
    "of another release": (change_ledger(lambda document: document.update(neuralforecast="1.7.3")), "1.7.3"),
    "naming a file outside": (
        change_ledger(lambda document: document.update(files={"../../evil.py": document["files"][TFT]})),  # type: ignore[index]
        "ledger.json",
    ),
}


@pytest.mark.parametrize(("damage", "part"), DAMAGES.values(), ids=DAMAGES)
def test_an_invalid_ledger_blocks_apply_and_revert(damage: Drift, part: str, patched: Path) -> None:
    damage(patched)
    before = snapshot(patched)
    status = invoke("status", "--site-packages", patched)
    assert status.exit_code == 0
    assert part in status.stderr
    assert set(states(patched).values()) == {"applied"}, "the fingerprints are enough for that"
    for command in ("apply", "revert", "apply --force", "revert --force"):
        result = invoke(*on_some(command), "--site-packages", patched)
        assert result.exit_code == 3
        assert part in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert snapshot(patched) == before


def test_without_the_ledger_patches_are_applied_and_revert_is_refused(patched: Path) -> None:
    ledger(patched).unlink()
    before = snapshot(patched)
    assert set(states(patched).values()) == {"applied"}
    assert invoke("apply", *SOME_PATCHES, "--site-packages", patched).exit_code == 0
    result = invoke("revert", "--site-packages", patched)
    assert result.exit_code == 3
    assert "pip install --force-reinstall --no-deps neuralforecast==1.7.4" in result.stderr
    assert snapshot(patched) == before


# --- the originals ---


@pytest.mark.parametrize("loss", ["removed", "altered"])
def test_revert_is_refused_if_a_saved_original_is_lost(loss: str, patched: Path) -> None:
    kept = dist_info(patched) / "nfpatch" / "originals" / f"{TFT}.orig"
    content = kept.read_bytes()
    kept.unlink()
    if loss == "altered":
        kept.write_bytes(content + b"# altered\n")
    before = snapshot(patched)
    assert states(patched)["tft-static-encoder"] == "applied"
    result = invoke("revert", "--site-packages", patched)
    assert result.exit_code == 3
    assert str(kept) in result.stderr
    assert "pip install --force-reinstall" in result.stderr
    assert snapshot(patched) == before
    assert invoke("revert", "nbeatsx-unused-out", "--site-packages", patched).exit_code == 0, (
        "the other original is there"
    )


# --- the install ---


def unpack_again(site: Path, names: Callable[[str], bool]) -> None:
    for name, content in contents_of("1.7.4").items():
        if names(name):
            (site / name).write_bytes(content)


@pytest.mark.parametrize("record_too", [False, True], ids=["package only", "with RECORD"])
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_package_unpacked_over_a_patched_one_is_patched_again(
    command: str, record_too: bool, released: Callable[[str], Path]
) -> None:
    site = released("1.7.4")
    before = snapshot(site)
    invoke("apply", *SOME_PATCHES, "--site-packages", site)
    patched = snapshot(site)
    unpack_again(site, lambda name: name.startswith("neuralforecast/") or (record_too and name.endswith("RECORD")))
    assert set(states(site).values()) == {"applicable"}

    assert invoke(*on_some(command), "--site-packages", site).exit_code == 0
    after = snapshot(site)
    if command == "apply":
        assert {path for path in after if after[path] != patched[path]} <= {
            path for path in after if record_too and path.endswith("RECORD")
        }, "the rows may be in another order"
        assert (false_record_rows(site), unlisted_files(site)) == ([], [])
    else:
        assert after == before


def test_rows_missing_from_record_are_written_again(patched: Path) -> None:
    record = dist_info(patched) / "RECORD"
    record.write_text("".join(line for line in record.read_text().splitlines(True) if "nfpatch" not in line))
    assert invoke("revert", "tft-static-encoder", "--site-packages", patched).exit_code == 0
    assert (false_record_rows(patched), unlisted_files(patched)) == ([], [])


def test_a_missing_record_blocks_every_command(patched: Path) -> None:
    (dist_info(patched) / "RECORD").unlink()
    before = snapshot(patched)
    for command in ("status", "apply", "revert"):
        result = invoke(*on_some(command), "--site-packages", patched)
        assert result.exit_code == 4
        assert str(dist_info(patched) / "RECORD") in result.stderr
    assert snapshot(patched) == before


def test_a_missing_package_with_a_dist_info_is_an_environment_error(patched: Path) -> None:
    shutil.rmtree(patched / "neuralforecast")
    for command in ("status", "apply", "revert"):
        result = invoke(*on_some(command), "--site-packages", patched)
        assert result.exit_code == 4
        assert str(dist_info(patched)) in result.stderr


def test_two_releases_in_one_site_packages_are_an_environment_error(patched: Path) -> None:
    unpack("1.7.5", patched)
    assert invoke("status", "--site-packages", patched).exit_code == 4
    assert NBEATSX in snapshot(patched)
