"""A future release, 3.4.0, made of the files of 3.3.0."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from releases import RELEASES, wheel_of
from support import ROOT, all_states, answer, environment, false_record_rows, invoke, snapshot

from nfpatch.catalog import load_catalog
from nfpatch.fingerprints import read_fingerprints
from nfpatch.installs.find import RUNTIME_FOLDER

NEW, NEWEST = "3.4.0", RELEASES[-1]


def make_wheel(folder: Path) -> Path:
    """The wheel of the new release."""
    wheel = folder / f"neuralforecast-{NEW}-py3-none-any.whl"
    rows: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(wheel_of(NEWEST)) as old, zipfile.ZipFile(wheel, "w") as new:
        for name in old.namelist():
            content = old.read(name).replace(f"\nVersion: {NEWEST}\n".encode(), f"\nVersion: {NEW}\n".encode())
            name = name.replace(f"neuralforecast-{NEWEST}.dist-info", f"neuralforecast-{NEW}.dist-info")
            if not name.endswith("/RECORD"):
                new.writestr(name, content)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append((name, f"sha256={digest}", str(len(content))))
        record = f"neuralforecast-{NEW}.dist-info/RECORD"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
        new.writestr(record, text.getvalue())
    return wheel


@pytest.fixture
def new_site(tmp_path: Path) -> Path:
    site = tmp_path / "site-new"
    with zipfile.ZipFile(make_wheel(tmp_path)) as wheel:
        wheel.extractall(site)
    assert false_record_rows(site) == []
    return site


def test_status_shows_the_fitting_patches_and_apply_is_refused(new_site: Path) -> None:
    catalog = load_catalog()
    before = snapshot(new_site)
    needed = {patch.id for patch in catalog.patches if catalog.files_of(patch, NEWEST)}
    assert all_states(new_site) == {
        patch.id: "modified" if patch.id in needed else "not-needed" for patch in catalog.patches
    }
    assert invoke("status", "--check", "--site-packages", new_site).exit_code == 1
    refused = invoke("apply", "--site-packages", new_site)
    assert refused.exit_code == 3
    assert f"neuralforecast {NEW}" in refused.stderr
    assert "--allow-modified --prove" in refused.stderr
    assert snapshot(new_site) == before


def test_allow_modified_applies_them_and_revert_restores_every_byte(new_site: Path) -> None:
    before, catalog = snapshot(new_site), load_catalog()
    claiming = [patch for patch in catalog.default if catalog.files_of(patch, NEW)]

    document = answer("apply", "--allow-modified", "--site-packages", new_site)

    files = sorted({file for patch in claiming for file in catalog.files_of(patch, NEW)})
    assert [file for file in document["changed"] if not file.startswith(f"{RUNTIME_FOLDER}/")] == files
    for file in files:
        known = catalog.fingerprints.file(NEWEST, file)
        assert known is not None
        default = known.patches.keys() & {patch.id for patch in catalog.default}
        assert known.detect_patches((new_site / file).read_bytes()) == default
    assert {id_ for id_, state in all_states(new_site).items() if state == "applied"} == {p.id for p in claiming}
    assert answer("apply", "--allow-modified", "--site-packages", new_site)["changed"] == []
    assert answer("revert", "--site-packages", new_site)["changed"] == document["changed"]
    assert snapshot(new_site) == before


@pytest.mark.ddp
def test_prove_patches_it_if_the_proof_passes(new_site: Path, training_env: Path) -> None:
    where = ("--python", training_env, "--site-packages", new_site)
    document = answer("apply", "stemgnn-backcast", "--allow-modified", "--prove", *where)
    assert document["proof"]["ok"] is True
    assert document["changed"] == ["neuralforecast/models/stemgnn.py"]
    assert {case["outcome"] for case in document["proof"]["cases"]} == {"pass", "unused-parameters"}


def test_a_release_in_the_fingerprints_is_known(new_site: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for folder in ("nfpatch", "patches", "scripts"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    wheels = clone / ".cache" / "wheels"
    wheels.mkdir(parents=True)
    for wheel in (wheel_of(NEWEST), tmp_path / f"neuralforecast-{NEW}-py3-none-any.whl"):
        os.link(wheel.resolve(), wheels / wheel.name)
    listing = clone / "scripts" / "releases.py"
    start, _, rest = listing.read_text().partition("RELEASES = (\n")
    listing.write_text(f'{start}RELEASES = ("{NEWEST}", "{NEW}")\n{rest.partition(chr(10) + ")" + chr(10))[2]}')

    made = [sys.executable, clone / "scripts" / "fingerprints.py"]
    subprocess.run(made, env=environment(clone), check=True, capture_output=True)

    known, here = read_fingerprints(clone / "patches" / "fingerprints.json"), load_catalog().fingerprints
    assert known.releases == (NEWEST, NEW)
    for file in known.files:
        version = here.file(NEWEST, file)
        expected = version and version._replace(releases=(NEWEST, NEW))
        assert known.file(NEW, file) == known.file(NEWEST, file) == expected
    command = [sys.executable, "-m", "nfpatch", "status", "--json", "--site-packages", new_site]
    printed = subprocess.run(command, env=environment(clone), cwd=tmp_path, check=True, capture_output=True, text=True)
    states = {patch["id"]: patch["state"] for patch in json.loads(printed.stdout)["patches"]}
    assert (states["tft-static-context"], states["tft-static-encoder"]) == ("applicable", "not-needed")
