"""`make new-patch`: the skeleton of a patch loads and changes nothing, and its test fails until it is edited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import new_patch
import pytest
from support import ROOT

from nfpatch.catalog import load_patches

ID, MODULE = "mlp-unused-gate", "mlp_unused_gate"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two folders for the skeletons."""
    (tmp_path / "patches").mkdir()
    (tmp_path / "tests" / "patches").mkdir(parents=True)
    monkeypatch.setattr(new_patch, "ROOT", tmp_path)
    return tmp_path


def make(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["new_patch.py", *arguments])
    return new_patch.main()


def test_the_patch_loads_and_has_no_variant_yet(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(monkeypatch, ID, "--group", "search") == 0
    (patch,) = (patch for patch in load_patches([clone / "patches"]) if patch.id == ID)
    assert (patch.group, patch.variants, patch.files) == ("search", {}, ())


def test_the_skeletons_test_fails_and_names_the_file_to_edit(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(monkeypatch, ID) == 0
    tests = clone / "tests" / "patches"
    snippets = (ROOT / "tests" / "patches" / "snippets.py").read_text(encoding="utf-8")
    extra = f"load_catalog([__import__('pathlib').Path({str(clone / 'patches')!r})])"
    (tests / "snippets.py").write_text(snippets.replace("load_catalog()", extra), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests / f"test_{MODULE}.py"]
    done = subprocess.run(
        command, cwd=clone, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert f"patches/{MODULE}.py" in done.stdout


def test_existing_files_are_not_overwritten(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = clone / "tests" / "patches" / f"test_{MODULE}.py"
    test.write_text("mine\n")
    assert make(monkeypatch, ID) == 1
    assert test.read_text() == "mine\n"
    assert [*(clone / "patches").iterdir()] == []


@pytest.mark.parametrize("name", ["Gate", "gate", "mlp_gate", "-gate", "mlp--gate", "../mlp-gate"])
def test_an_id_must_be_lower_case_words_with_hyphens(name: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as refused:
        make(monkeypatch, name)
    assert refused.value.code == 2
    assert [*clone.rglob("*.py")] == []
