"""Some of the scripts of `make rehearsals`: some are fixed by patches, some have their own faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent / "scripts"

Rehearse = Callable[..., Any]


@pytest.fixture
def rehearse(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> Rehearse:
    """Rehearse one of the scripts with a source, in its own folder; returns exit code, document and stderr."""

    def run(release: str, script: str, source: str) -> Any:
        folder = tmp_path / source
        folder.mkdir()
        shutil.copy(SCRIPTS / script, folder)
        site = tmp_path / f"site-{release}"
        site = site if site.exists() else released(release)
        place = ("--python", training_env, "--site-packages", site, "--source", source, "--json")
        command = [*map(str, (sys.executable, "-m", "nfpatch", "rehearse", *place, script))]
        # releases before 2.0 need it to load models with a newer torch
        unsafe = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        done = subprocess.run(command, cwd=folder, env=unsafe, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def wrong(document: Any) -> list[tuple[str, str, list[str]]]:
    """The calls that differ from one process: method, outcome and patches."""
    return [
        (stage["call"].rpartition(".")[2], stage["outcome"], stage["patches"])
        for stage in document["stages"]
        if not stage["ok"]
    ]


def test_a_wrapper_class_that_saves(rehearse: Rehearse) -> None:
    code, document, words = rehearse("1.6.4", "wrapper_class.py", "released")
    assert code == 1, words
    assert wrong(document) == [
        ("fit", "wrong", ["validation-of-all-series"]),
        ("save", "wrong", ["save-by-one-rank"]),
    ]
    code, document, words = rehearse("1.6.4", "wrapper_class.py", "patched")
    assert (code, wrong(document), len(document["stages"])) == (0, [], 5), words
    # each rank writes the script's own file: reported, but no fault
    assert any("meta.json" in note for note in document["notes"])


def test_a_script_with_one_process_per_model(rehearse: Rehearse) -> None:
    code, document, words = rehearse("1.6.1", "subprocess_per_model.py", "patched")
    calls = [(stage["call"].rpartition(".")[2], stage["model"], stage["ok"]) for stage in document["stages"]]
    assert (code, document["exit_code"]) == (0, 0), words
    assert calls == [(call, model, True) for model in ("NHITS", "LSTM") for call in ("fit", "predict")]


@pytest.mark.long
def test_a_notebook_with_an_unseeded_sample(rehearse: Rehearse) -> None:
    """The script itself is at fault: every rank has different series, and no patch is named for that."""
    code, document, words = rehearse("2.0.0", "notebook_export.py", "patched")
    assert code == 1, words
    found = wrong(document)
    assert found[0][:2] == ("fit", "wrong"), found
    assert not any(patches for _, _, patches in found), found
