"""Some of the scripts that `make rehearsals` rehearses: those that patches mend, and those at fault themselves."""

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
    """Rehearses one of the scripts with a source, in a folder of its own: exit code, document, complaints."""

    def run(release: str, script: str, source: str) -> Any:
        folder = tmp_path / source
        folder.mkdir()
        shutil.copy(SCRIPTS / script, folder)
        site = tmp_path / f"site-{release}"
        site = site if site.exists() else released(release)
        place = ("--python", training_env, "--site-packages", site, "--source", source, "--json")
        command = [*map(str, (sys.executable, "-m", "nfpatch", "rehearse", *place, script))]
        # releases before 2.0 load their saved models with a newer torch only so
        unsafe = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        done = subprocess.run(command, cwd=folder, env=unsafe, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def wrong(document: Any) -> list[tuple[str, str, list[str]]]:
    """The calls that are not as in one process: method, outcome and patches."""
    return [
        (stage["call"].rpartition(".")[2], stage["outcome"], stage["patches"])
        for stage in document["stages"]
        if not stage["ok"]
    ]


def test_a_class_around_neuralforecast_that_saves(rehearse: Rehearse) -> None:
    code, document, words = rehearse("1.6.4", "wrapper_class.py", "released")
    assert code == 1, words
    assert wrong(document) == [
        ("fit", "wrong", ["validation-of-all-series"]),
        ("save", "wrong", ["save-by-one-rank"]),
    ]
    code, document, words = rehearse("1.6.4", "wrapper_class.py", "patched")
    assert (code, wrong(document), len(document["stages"])) == (0, [], 5), words
    # each rank writes the script's own file: told, and no fault
    assert any("meta.json" in note for note in document["notes"])


def test_a_script_that_trains_each_model_in_a_process_of_its_own(rehearse: Rehearse) -> None:
    code, document, words = rehearse("1.6.1", "subprocess_per_model.py", "patched")
    calls = [(stage["call"].rpartition(".")[2], stage["model"], stage["ok"]) for stage in document["stages"]]
    assert (code, document["exit_code"]) == (0, 0), words
    assert calls == [(call, model, True) for model in ("NHITS", "LSTM") for call in ("fit", "predict")]


def test_a_notebook_that_draws_its_sample_without_a_seed(rehearse: Rehearse) -> None:
    """The script itself is at fault: every rank has other series, and no patch is said to mend that."""
    code, document, words = rehearse("2.0.0", "notebook_export.py", "patched")
    assert code == 1, words
    found = wrong(document)
    assert found[0][:2] == ("fit", "wrong"), found
    assert not any(patches for _, _, patches in found), found
