"""Maliciously prepared installs: nothing outside is read or written, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    MISSION,
    PACKAGE_OF_MODULES,
    PLACEMENT,
    SOME_PATCHES,
    TFT,
    all_states,
    dist_info,
    invoke,
    on_some,
    run_nfpatch,
    snapshot,
)

pytestmark = [pytest.mark.fake_releases, pytest.mark.slow]

COMMANDS = ("status", "apply", "revert")


@pytest.fixture
def enclosure(site: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A site-packages folder, and a folder outside with a file that must not change."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.py").write_text("precious = True\n")
    return site, outside


def refuse_all(site: Path, code: int, part: str, commands: tuple[str, ...] = COMMANDS) -> None:
    """Check that every command exits with this code and one line with this part, and changes nothing."""
    before = snapshot_of_files(site.parent)
    for command in commands:
        arguments = on_some(command) if command in COMMANDS else command.split()
        ran = run_nfpatch(*arguments, "--site-packages", site, timeout=60)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (code, 1), ran.stderr
        assert part in ran.stderr
        assert "Traceback" not in ran.stderr
    assert snapshot_of_files(site.parent) == before


def snapshot_of_files(folder: Path) -> object:
    """A snapshot that opens no pipes or devices."""
    entries = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            status = path.lstat()
            regular = path.is_file() and not path.is_symlink() and status.st_size < 10**7
            entries[path] = (status.st_mode, status.st_size, path.read_bytes() if regular else b"")
    return entries


@pytest.mark.parametrize("row", ["../outside/precious.py", "/etc/hostname", "a/../../outside/precious.py"])
def test_record_rows_that_lead_outside_are_not_followed(row: str, enclosure: tuple[Path, Path]) -> None:
    site, outside = enclosure
    record = dist_info(site) / "RECORD"
    record.write_text(record.read_text() + f"{row},sha256=abc,3\n")
    before, kept = snapshot(site), snapshot(outside)
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    assert f"{row},sha256=abc,3\n" in record.read_text(), "a foreign row is unchanged"
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert (snapshot(site), snapshot(outside)) == (before, kept)


@pytest.mark.parametrize(
    "name", ["../outside/precious.py", "/etc/hostname", "neuralforecast/../../outside/precious.py"]
)
@pytest.mark.parametrize("where", ["file", "bytecode", "added"])
def test_ledger_entries_that_lead_outside_are_refused(where: str, name: str, enclosure: tuple[Path, Path]) -> None:
    site, _ = enclosure
    invoke("apply", *SOME_PATCHES, "--site-packages", site)
    ledger = dist_info(site) / "nfpatch" / "ledger.json"
    document = json.loads(ledger.read_text())
    if where == "file":
        document["files"][name] = document["files"].pop(TFT)
    elif where == "added":
        document["added"][name] = document["added"].pop(PLACEMENT)
    else:
        document["files"][TFT]["bytecode"] = [name]
    ledger.write_text(json.dumps(document))
    refuse_all(site, 3, "ledger.json", ("apply", "revert"))


@pytest.mark.parametrize("patches", ["tft-static-encoder", ["tft-static-encoder"], None, {"a": "b"}, {}], ids=repr)
def test_a_ledger_with_malformed_patches_is_refused(patches: object, site: Path) -> None:
    change_ledger(site, lambda files: files[TFT].update(patches=patches))
    refuse_all(site, 3, "ledger.json", ("apply", "revert"))


def test_a_ledger_of_a_newer_nfpatch_is_refused_with_its_version(site: Path) -> None:
    invoke("apply", *SOME_PATCHES, "--site-packages", site)
    ledger = dist_info(site) / "nfpatch" / "ledger.json"
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "schema": 4, "nfpatch": "9.0"}))
    refuse_all(site, 3, "nfpatch 9.0", ("apply", "revert"))


def test_a_patch_that_a_forged_ledger_records_for_another_file_is_not_written_there(site: Path) -> None:
    released = snapshot(site)
    forged = {"scaler-revin": {"edits_sha256": "0" * 64, "modules": []}}
    change_ledger(site, lambda files: files[TFT]["patches"].update(forged))
    assert all_states(site)["scaler-revin"] == "outdated"
    patched = (site / TFT).read_bytes()
    assert invoke("apply", "tft-static-encoder", "scaler-revin", "--site-packages", site).exit_code == 0
    assert (site / TFT).read_bytes() == patched
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == released


def test_a_ledger_that_lacks_one_file_of_a_patch_blocks_its_revert(site: Path) -> None:
    other = "neuralforecast/common/_base_windows.py"
    invoke("apply", "scaler-revin", "--site-packages", site)
    change_ledger(site, lambda files: files.pop(other))
    refused = invoke("revert", "--site-packages", site)
    assert refused.exit_code == 3
    assert str(site / other) in refused.stderr


def change_ledger(site: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the files in a ledger of these patches, or of more."""
    ledger = dist_info(site) / "nfpatch" / "ledger.json"
    if not ledger.exists():
        assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    document = json.loads(ledger.read_text())
    change(document["files"])
    ledger.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "path", ["../../../outside/precious.py", "/etc/hostname", "../../neuralforecast/../../outside/x"]
)
@pytest.mark.parametrize("journal", ["journal.json", "undo.json"])
@pytest.mark.parametrize("kind", ["Write", "Remove", "Folder", "Prune"])
def test_a_journal_that_leads_outside_is_refused(
    kind: str, journal: str, path: str, enclosure: tuple[Path, Path]
) -> None:
    site, _ = enclosure
    staging = dist_info(site) / "nfpatch" / "staging"
    staging.mkdir(parents=True)
    for name in ("new-0", "old-0"):
        (staging / name).write_text("evil")
    (staging / journal).write_text(json.dumps([[path, kind, False]]))
    refuse_all(site, 3, str(site), ("apply", "revert"))


@pytest.mark.parametrize("content", ["", "{", "[[1, 2]]", "[[1, 2, 3]]", '{"a": 1}', "\x00"])
def test_a_damaged_journal_is_refused(content: str, site: Path) -> None:
    staging = dist_info(site) / "nfpatch" / "staging"
    staging.mkdir(parents=True)
    (staging / "journal.json").write_text(content)
    refuse_all(site, 3, "journal.json", ("apply", "revert"))


def to_pipe(path: Path) -> None:
    os.mkfifo(path)


def to_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is limited to about a hundred bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def to_folder(path: Path) -> None:
    path.mkdir()


def to_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(700 * 1024 * 1024)


def to_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def to_ordinary_file(path: Path) -> None:
    path.write_text("mine = True\n")


def to_link_to_neighbour(path: Path) -> None:
    path.symlink_to("models")


KINDS = (to_pipe, to_socket, to_folder, to_huge_file, to_link_to_device)
PLACES = (TFT, "METADATA", "RECORD", "nfpatch/ledger.json")


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_pipes_devices_and_huge_files_are_refused_without_reading_them(
    place: str, make: Callable[[Path], None], site: Path
) -> None:
    path = site / place if place == TFT else dist_info(site) / place
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.unlink()
    make(path)
    for command in COMMANDS:
        arguments = on_some(command) if command in COMMANDS else command.split()
        ran = run_nfpatch(*arguments, "--site-packages", site, timeout=60)
        assert len(ran.stderr.splitlines()) == 1, ran.stderr
        assert str(path) in ran.stderr
        assert (
            ran.returncode == 0 if (command, place) == ("status", "nfpatch/ledger.json") else ran.returncode in (3, 4)
        )


@pytest.mark.parametrize("make", [*KINDS, to_ordinary_file, to_link_to_neighbour], ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", [PLACEMENT, PACKAGE_OF_MODULES])
def test_foreign_files_at_the_paths_of_added_files_are_neither_followed_nor_overwritten(
    place: str, make: Callable[[Path], None], site: Path
) -> None:
    path = site / place
    path.parent.mkdir(exist_ok=True)
    if (place, make) == (PACKAGE_OF_MODULES, to_folder):
        pytest.skip("a folder is expected there")
    make(path)
    before = snapshot_of_files(site)
    for command in COMMANDS:
        options = ["--force"] if command == "apply" else []
        ran = run_nfpatch(*on_some(command), *options, "--site-packages", site, timeout=60)
        expected = (3, 1) if command == "apply" else (0, 0)
        assert (ran.returncode, len(ran.stderr.splitlines())) == expected, ran.stderr
        assert command != "apply" or str(path) in ran.stderr
    assert all_states(site)["load-on-fewer-devices"] == "modified"
    assert snapshot_of_files(site) == before
    assert invoke("apply", *MISSION, "--site-packages", site).exit_code == 0, (
        "patches without added files can be applied"
    )


def test_a_pipe_in_the_pycache_folder_is_refused(site: Path) -> None:
    cache = site / "neuralforecast" / "models" / "__pycache__"
    cache.mkdir()
    os.mkfifo(cache / "tft.cpython-311.pyc")
    refuse_all(site, 3, str(cache / "tft.cpython-311.pyc"), ("apply",))


@pytest.mark.parametrize("what", ["home", "originals", "dist-info", "package", "added files"])
def test_a_folder_that_is_a_link_to_the_outside_is_refused(what: str, enclosure: tuple[Path, Path]) -> None:
    site, outside = enclosure
    info = dist_info(site)
    folder = {
        "home": info / "nfpatch",
        "originals": info / "nfpatch" / "originals",
        "dist-info": info,
        "package": site / "neuralforecast",
        "added files": site / PACKAGE_OF_MODULES,
    }[what]
    folder.parent.mkdir(exist_ok=True)
    if folder.exists():
        shutil.move(folder, outside / "moved")
        folder.symlink_to(outside / "moved")
    else:
        folder.symlink_to(outside)
    refuse_all(site, 3, "symbolic link", ("apply",))


def test_paths_may_have_undecodable_bytes(site: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xffte\n packages"))
    site.rename(odd)
    cache = odd / "neuralforecast" / "models" / "__pycache__"
    cache.mkdir()
    Path(os.fsdecode(os.fsencode(cache) + b"/tft.\xfe.pyc")).write_bytes(b"compiled")
    before = snapshot(odd)
    for command in ("status", "apply", "status", "revert"):
        for options in ([], ["--json"]):
            ran = run_nfpatch(*on_some(command), *options, "--site-packages", odd, errors="replace")
            assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    assert snapshot(odd) == before


def test_paths_may_be_long(site: Path, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 100] * 25)
    deep.mkdir(parents=True)
    shutil.move(site, deep / "site")
    before = snapshot(deep)
    assert invoke("apply", *SOME_PATCHES, "--site-packages", deep / "site").exit_code == 0
    assert invoke("revert", "--site-packages", deep / "site").exit_code == 0
    assert snapshot(deep) == before
