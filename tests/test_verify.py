"""`verify` on real installs with real distributed fits."""

from __future__ import annotations

import json
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import answer, invoke, run_nfpatch, snapshot

OUT_LAYER = ["out.weight", "out.bias"]


def by_source(document: Any, source: str) -> dict[tuple[str, str], Any]:
    return {(case["model"], case["config"]): case for case in document["cases"] if case["source"] == source}


@pytest.mark.ddp
def test_verify_tells_a_patched_install_from_an_unpatched_one(site: Path, training_env: Path) -> None:
    where = ("--python", training_env, "--site-packages", site)
    released = snapshot(site)

    unpatched = invoke("verify", "--json", *where)
    assert unpatched.exit_code == 1
    document = json.loads(unpatched.stdout)
    assert document["ok"] is False
    assert by_source(document, "original")["NBEATSx", "MQLoss"]["ok"] is True
    assert by_source(document, "installed")["NBEATSx", "MQLoss"]["ok"] is False
    assert by_source(document, "installed")["NBEATSx", "MQLoss"]["unused_parameters"] == OUT_LAYER
    assert by_source(document, "installed")["NBEATSx", "MAE"]["ok"] is True
    assert by_source(document, "installed")["TFT", "no static features"]["outcome"] == "unused-parameters"
    assert snapshot(site) == released

    assert invoke("apply", *where).exit_code == 0
    patched = snapshot(site)
    document = answer("verify", *where)
    assert document["ok"] is True
    assert (document["world_size"], document["backend"]) == (2, "gloo")
    assert document["neuralforecast"]["version"] == "1.7.4"
    assert document["torch"].startswith("2.13.0")
    red, green = by_source(document, "original"), by_source(document, "installed")
    assert red["NBEATSx", "MQLoss"]["outcome"] == "unused-parameters"
    assert red["NBEATSx", "MQLoss"]["unused_parameters"] == OUT_LAYER
    assert red["NBEATSx", "MAE"]["outcome"] == "pass"
    unused = red["TFT", "no static features"]["unused_parameters"]
    assert len(unused) == 41
    assert all(name.startswith("static_encoder.") for name in unused)
    assert {case["outcome"] for case in green.values()} == {"pass"}
    assert ("NHITS", "MQLoss") in red
    assert ("NHITS", "MQLoss") in green
    assert all(case["steps"] > 1 for case in green.values())
    promised = {
        *("id", "patch", "model", "config", "source", "expect", "outcome", "ok"),
        *("unused_parameters", "seconds", "detail"),
    }
    assert all(promised <= set(case) for case in document["cases"])
    assert snapshot(site) == patched


@pytest.mark.ddp
def test_preview_proves_the_patched_source_without_writing_it(site: Path, training_env: Path) -> None:
    before = snapshot(site)
    where = ("--python", training_env, "--site-packages", site)
    ran = run_nfpatch("verify", "nbeatsx-unused-out", "--preview", *where)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Proved" in ran.stdout
    assert "preview" in ran.stdout
    assert "out.weight, out.bias" in ran.stdout
    assert all(len(line) <= 80 for line in ran.stdout.splitlines()[1:-2])
    assert "NBEATSx, MQLoss, preview source: pass" in ran.stderr
    assert snapshot(site) == before


def test_where_no_patch_is_needed_there_is_nothing_to_prove(released: Callable[[str], Path]) -> None:
    result = invoke("verify", "--site-packages", released("3.3.0"))
    assert result.exit_code == 0
    assert "fixed upstream in 1.7.6" in result.stdout
    assert "Nothing to prove." in result.stdout
    document = answer("verify", "--site-packages", released("3.3.0"))
    assert (document["ok"], document["cases"]) == (True, [])


def test_without_torch_verify_says_what_to_install(site: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    result = invoke("verify", "--python", tmp_path / "bare" / "bin" / "python", "--site-packages", site)
    assert result.exit_code == 4
    assert "torch" in result.stderr
    assert "pip install" in result.stderr


def test_without_neuralforecast_verify_says_so(tmp_path: Path) -> None:
    result = invoke("verify", "--site-packages", tmp_path)
    assert result.exit_code == 4
    assert "No neuralforecast was found" in result.stderr


def test_an_interrupted_install_is_not_verified(site: Path) -> None:
    staging = next(site.glob("*.dist-info")) / "nfpatch" / "staging"
    staging.mkdir(parents=True)
    (staging / "journal.json").write_text("[]")
    result = invoke("verify", "--site-packages", site)
    assert result.exit_code == 3
    assert "nfpatch apply" in result.stderr
