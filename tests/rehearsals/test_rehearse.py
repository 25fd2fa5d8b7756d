"""Real rehearsals of scripts: started unchanged, reported, and without leftovers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import MARK, ROOT, environment, long, processes_with, snapshot

HERE = Path(__file__).parent
HABITS = HERE / "habits.py"
FINDINGS = HERE / "findings"
COMMAND = (sys.executable, "-m", "nfpatch", "rehearse")

Rehearse = Callable[..., "tuple[int, Any, str]"]


@pytest.fixture
def rehearse(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> Rehearse:
    """Rehearse a script on a release, in its own folder; returns exit code, document and stderr."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(release: str, *arguments: object, source: str = "patched", options: Sequence[object] = ()) -> Any:
        site = tmp_path / f"site-{release}"
        site = site if site.exists() else released(release)
        place = ("--python", training_env, "--site-packages", site, "--source", source, "--json")
        command = [*map(str, (*COMMAND, *place, *options, *arguments))]
        marked = {**os.environ, MARK: str(tmp_path)}
        done = subprocess.run(command, cwd=folder, env=marked, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def outcomes(document: Any) -> list[tuple[str, str]]:
    """The calls, without their class, and their outcomes."""
    return [(stage["call"].rpartition(".")[2], stage["outcome"]) for stage in document["stages"]]


def test_the_script_is_started_unchanged(rehearse: Rehearse, tmp_path: Path) -> None:
    package = tmp_path / "work" / "pipeline"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "data.py").write_text("from neuralforecast.utils import AirPassengersPanel as FRAME\n")
    (package / "__main__.py").write_text("""
import json, os, sys
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from .data import FRAME

model = NHITS(h=12, input_size=24, max_steps=50, mlp_units=[[8, 8]] * 3)
nf = NeuralForecast(models=[model], freq="M")
nf.fit(FRAME[["unique_id", "ds", "y"]])
seen = [__name__, __file__, __package__, sys.argv, os.getcwd(), any(path.endswith("rehearsal") for path in sys.path)]
with open(f"seen-{os.environ.get('LOCAL_RANK', '0')}.json", "w") as file:
    json.dump(seen, file)
""")
    code, document, words = rehearse("3.3.0", "-m", "pipeline", "--epochs", "3", "-x")
    assert (code, outcomes(document)) == (0, [("fit", "pass")]), words
    (stage,) = document["stages"]
    assert (stage["file"], stage["line"]) == (str(package / "__main__.py"), 9)
    for rank in ("0", "1"):
        name, file, own_package, arguments, folder, is_seen = json.loads(
            (tmp_path / "work" / f"seen-{rank}.json").read_text()
        )
        assert (name, file, own_package) == ("__main__", str(package / "__main__.py"), "pipeline")
        assert arguments[1:] == ["--epochs", "3", "-x"]
        assert (folder, is_seen) == (str(tmp_path / "work"), False)


@pytest.mark.parametrize("habit", ["forks", "leaves", long("chdir"), long("logs")])
def test_common_habits_of_scripts_work(rehearse: Rehearse, tmp_path: Path, habit: str) -> None:
    code, document, words = rehearse("3.3.0", HABITS, habit)
    assert (code, outcomes(document)) == (0, [("fit", "pass"), ("predict", "pass")]), words
    assert document["overrides"] == ["max_steps=50 is 4", "val_check_interval=50 is 4"]
    assert any("left 2 processes running" in note for note in document["notes"]) == (habit == "leaves")
    for rank in document["stages"][0]["ranks"]:
        (training,) = rank["trainings"]
        assert (training["steps"], training["world_size"], len(training["losses"])) == (4, 2, 4)


@pytest.mark.parametrize(
    ("habit", "exit_code", "words"),
    [("exits", 3, ""), ("raises", 1, ""), long("excepthook", 7, ""), long("reads", 1, "reads standard input")],
)
def test_a_script_that_fails_is_reported(rehearse: Rehearse, habit: str, exit_code: int, words: str) -> None:
    code, document, _ = rehearse("3.3.0", HABITS, habit)
    assert (code, document["ok"], document["exit_code"]) == (1, False, exit_code)
    assert outcomes(document) == [("fit", "pass")]
    assert words in " ".join(document["notes"])


def test_a_script_without_a_call_is_an_error(rehearse: Rehearse) -> None:
    code, document, _ = rehearse("3.3.0", HABITS, "nothing")
    assert (code, document["ok"], document["stages"], document["exit_code"]) == (1, False, [], 0)


@pytest.mark.parametrize("habit", ["spawned", "forked"])
def test_spawned_processes_are_observed(rehearse: Rehearse, habit: str) -> None:
    code, document, words = rehearse("3.3.0", HABITS, habit)
    assert (code, outcomes(document)) == (0, [("fit", "pass"), ("predict", "pass")]), words
    assert len(document["stages"][0]["ranks"]) == 1


@pytest.mark.parametrize("devices", [3, long(2)])
def test_torchrun(rehearse: Rehearse, devices: int) -> None:
    code, document, words = rehearse("1.7.4", HABITS, "logs", options=["--launcher", "torchrun", "--devices", devices])
    assert (code, outcomes(document)) == (0, [("fit", "pass"), ("predict", "pass")]), words
    assert [len(stage["ranks"]) for stage in document["stages"]] == [devices, devices]


def test_faults_of_the_released_source_are_reported_with_their_patches(rehearse: Rehearse, tmp_path: Path) -> None:
    report, page = tmp_path / "report.xml", tmp_path / "report.html"
    exports = ["--junit-xml", report, "--html", page]
    code, document, words = rehearse("1.7.4", HABITS, "logs", source="released", options=exports)
    site_before = snapshot(tmp_path / "site-1.7.4")
    assert code == 1, words
    fit, predict = document["stages"]
    assert (fit["outcome"], predict["outcome"]) == ("pass", "error")
    assert predict["patches"] == ["predict-on-one-device"]
    assert "list index out of range" in predict["detail"]
    (suite,) = ElementTree.parse(report).getroot()
    errors = [case for case in suite if case.find("error") is not None]
    assert [case.get("name") for case in errors] == ["habits.py:76 NeuralForecast.predict", "the script"]
    assert "predict-on-one-device" in page.read_text()
    code, document, words = rehearse("1.7.4", HABITS, "logs", source="installed")
    assert (code, document["source"]) == (1, "installed")
    assert snapshot(tmp_path / "site-1.7.4") == site_before


@pytest.mark.long
def test_lightning_still_changes_the_users_list_of_callbacks(rehearse: Rehearse) -> None:
    """Lightning adds its progress bar to that list, which is saved with the model: recording must not hide that."""
    code, document, words = rehearse("3.3.0", HABITS, "saves", source="released")
    save = next(stage for stage in document["stages"] if stage["call"] == "NeuralForecast.save")
    assert (code, save["outcome"], save["patches"]) == (1, "error", ["saved-callbacks"]), words
    assert "rank 0: TypeError: cannot pickle '_thread.lock' object" in save["detail"]
    code, document, words = rehearse("3.3.0", HABITS, "saves")
    assert (code, outcomes(document)) == (0, [("fit", "pass"), ("save", "pass"), ("predict", "pass")]), words


def test_the_page_shows_its_script_and_the_output_of_its_rehearsal(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "how-to" / "rehearse.md").read_text(encoding="utf-8")
    script = HERE / "scripts" / "train.py"
    assert f"```python\n{script.read_text()}```\n" in page
    place = ("--python", training_env, "--site-packages", released("1.7.4"))
    shutil.copy(script, tmp_path)
    for shown, arguments in (("train.py", ()), ("--source patched train.py", ("--source", "patched"))):
        command = [*map(str, (*COMMAND, *place, *arguments, "train.py"))]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        (shown_output,) = re.findall(rf"^\$ nfpatch rehearse {shown}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        # except the folder of the install, and the versions and seconds in the paragraph below it
        assert done.stdout.partition("\nChanged")[2] == shown_output.partition("\nChanged")[2], done.stderr


def test_deadlocked_ranks_are_stopped_and_reported_with_their_locations(rehearse: Rehearse, tmp_path: Path) -> None:
    code, document, _ = rehearse("3.3.0", HABITS, "waits")
    assert (code, outcomes(document)) == (1, [("fit", "timeout")])
    detail = document["stages"][0]["detail"]
    assert "rank 0 hangs in barrier, called at" in detail
    assert "habits.py:32 in on_train_end" in detail
    assert processes_with(str(tmp_path)) == set()


def test_an_endless_script_is_stopped_by_the_timeout(rehearse: Rehearse, tmp_path: Path) -> None:
    code, document, _ = rehearse("3.3.0", HABITS, "endless", options=["--timeout", "30"])
    assert (code, document["exit_code"], document["ended"]) == (1, None, "ended by the timeout of 30 s")
    assert any("habits.py" in note for note in document["notes"])
    assert processes_with(str(tmp_path)) == set()


def test_an_interrupt_leaves_no_process_and_no_file(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    site = released("3.3.0")
    arguments = ["--python", training_env, "--site-packages", site, "--source", "patched", HABITS, "interrupted"]
    # a shell that runs this test in the background makes its processes ignore the interrupt
    starter = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], [*sys.argv[1:], str(os.getpid())])
"""
    command = [sys.executable, "-c", starter, *map(str, (*COMMAND, *arguments))]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, MARK: str(tmp_path), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 130, -signal.SIGINT), done.stderr
    assert processes_with(str(tmp_path)) == set()
    assert [path for path in temporary.iterdir() if path.name.startswith("nfpatch")] == []


def test_a_missing_script_or_folder_is_an_error_before_any_start(rehearse: Rehearse, tmp_path: Path) -> None:
    code, document, words = rehearse("3.3.0", "missing.py")
    assert (code, document["exit_code"]) == (2, 2)
    assert "There is no script missing.py" in words
    assert "Running" not in words
    code, document, words = rehearse("3.3.0", HABITS, "logs", options=["--html", tmp_path / "none" / "page.html"])
    assert code == 4
    assert "does not exist" in words


def test_another_neuralforecast_that_shadows_the_install_is_reported(
    released: Callable[[str], Path], rehearse: Rehearse, tmp_path: Path
) -> None:
    shutil.copy(HABITS, tmp_path / "work" / "train.py")
    released("3.3.0")
    shutil.copytree(tmp_path / "site-3.3.0" / "neuralforecast", tmp_path / "work" / "neuralforecast")
    code, _, words = rehearse("3.3.0", "train.py", "nothing", source="installed")
    assert code == 4
    assert str(tmp_path / "work" / "neuralforecast") in words


def test_as_is_changes_only_what_the_cpu_requires(rehearse: Rehearse, tmp_path: Path) -> None:
    script = tmp_path / "work" / "train.py"
    script.write_text("""
import sys, torch
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

device = "gpu" if torch.cuda.is_available() else "cpu"
options = dict(accelerator=device, devices=8, strategy="ddp_find_unused_parameters_true", precision="16-mixed")
nf = NeuralForecast(models=[NHITS(h=12, input_size=24, max_steps=7, **options)], freq="M")
nf.fit(AirPassengersPanel[["unique_id", "ds", "y"]])
""")
    code, document, words = rehearse("3.3.0", "train.py", options=["--as-is"])
    assert code == 0, words
    devices, precision = document["overrides"]
    assert "devices=8" in devices
    assert "16-mixed" in precision
    (stage,) = document["stages"]
    assert "find_unused_parameters" in stage["notes"][0]
    assert [rank["trainings"][0]["steps"] for rank in stage["ranks"]] == [7, 7]


@pytest.mark.parametrize("source", ["patched", "released"])
def test_a_validation_is_compared_with_the_weights_at_its_step(rehearse: Rehearse, tmp_path: Path, source: str) -> None:
    (tmp_path / "work" / "train.py").write_text("""
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

frame = AirPassengersPanel[["unique_id", "ds", "y"]]
third = frame[frame["unique_id"] == "Airline1"].assign(unique_id="Airline3", y=lambda part: 9 * part["y"])
frame = pd.concat([frame, third], ignore_index=True)
model = NHITS(h=6, input_size=12, max_steps=4, val_check_steps=3, learning_rate=0.01, mlp_units=3 * [[16, 16]])
NeuralForecast([model], freq="M").fit(frame, val_size=12)
""")
    code, document, words = rehearse("3.3.0", "train.py", source=source, options=["--as-is"])
    (stage,) = document["stages"]
    shown = ("pass", []) if source == "patched" else ("wrong", ["validation-of-all-series"])
    assert (stage["outcome"], stage["patches"]) == shown, words
    assert code == (0 if source == "patched" else 1)


def line_in(script: Path, text: str) -> int:
    """The number of the only line of a script that begins with this."""
    (number,) = [n for n, line in enumerate(script.read_text().splitlines(), 1) if line.strip().startswith(text)]
    return number


def test_strategy_and_accelerator_objects_are_kept(rehearse: Rehearse) -> None:
    code, document, words = rehearse("3.3.0", FINDINGS / "one_device.py")
    assert (code, outcomes(document)) == (0, 3 * [("fit", "pass"), ("predict", "pass")]), words
    sizes = [{t["world_size"] for rank in stage["ranks"] for t in rank["trainings"]} for stage in document["stages"]]
    assert sizes[::2] == [{1}, {2}, {2}]
    has_note = [any("OnThisMachine" in note for note in stage["notes"]) for stage in document["stages"]]
    assert has_note[::2] == [True, False, False]


@pytest.mark.parametrize("source", ["patched", "released"])
def test_a_method_that_the_script_replaces_is_named_with_the_patch_that_changes_it(
    rehearse: Rehearse, source: str
) -> None:
    script = FINDINGS / "replaced.py"
    code, document, words = rehearse("1.7.4", script, source=source)
    assert (code, outcomes(document)) == (1, [("fit", "pass"), ("predict", "error")]), words
    predict = document["stages"][1]
    remedy = " ".join(predict["remedy"])
    line = line_in(script, "def forecast_faster")
    assert (predict["patches"], predict["observed"]) == ([], [])
    for name in ("BaseWindows.predict", f"replaced.py:{line}", "predict-on-one-device"):
        assert name in remedy


def test_an_unused_layer_of_a_scripts_class_is_reported_with_the_line_to_add(rehearse: Rehearse) -> None:
    script = FINDINGS / "own_layer.py"
    code, document, words = rehearse("3.3.0", script)
    (fit,) = document["stages"]
    assert (code, fit["outcome"], fit["patches"], fit["observed"]) == (1, "unused-parameters", [], []), words
    for name in ("squeeze.0.weight", "Bottleneck", f"{script}:{line_in(script, 'self.squeeze')}"):
        assert name in fit["detail"]
    assert "    self.squeeze.requires_grad_(False)" in fit["remedy"]


def test_ranks_that_diverge_because_of_files_are_one_finding(rehearse: Rehearse, tmp_path: Path) -> None:
    script = FINDINGS / "left_by_files.py"
    code, document, words = rehearse("3.3.0", script)
    (fit,) = document["stages"]
    assert (code, fit["outcome"], fit["patches"], fit["observed"]) == (1, "wrong", [], []), words
    mark = tmp_path / "work" / "marks" / "NBEATS"
    for name in (
        *("rank 0 calls NeuralForecast.fit of NBEATS", "rank 1 calls NeuralForecast.fit of NHITS"),
        *(f"left_by_files.py:{line_in(script, 'if mark.exists')}", f"{mark} does not exist", f"{mark} exists"),
        f"rank 0 writes {mark}",
    ):
        assert name in fit["detail"]
    assert any("LOCAL_RANK" in line for line in fit["remedy"])


def test_an_option_that_each_rank_draws_is_the_cause_of_later_differences(rehearse: Rehearse) -> None:
    code, document, words = rehearse("3.3.0", FINDINGS / "drawn_width.py")
    (fit,) = document["stages"]
    assert (code, fit["outcome"], fit["patches"], fit["observed"]) == (1, "wrong", [], []), words
    for name in ("NBEATS.mlp_units is [[8, ", "on rank 0", "on rank 1", "sizes"):
        assert name in fit["detail"]
    assert any("random" in line for line in fit["remedy"])


def test_an_error_of_one_process_with_gpus_too_is_reported_as_such(rehearse: Rehearse) -> None:
    code, document, words = rehearse("2.0.1", FINDINGS / "search_on_cpu.py")
    (fit,) = document["stages"]
    assert (code, fit["outcome"], fit["refused_alone"], fit["patches"]) == (1, "error", True, []), words
    assert fit["detail"].endswith("on a machine with GPUs")
    assert any("devices=1" in line for line in fit["remedy"])


def test_an_error_of_one_process_too_is_found_although_callbacks_cannot_be_copied(rehearse: Rehearse) -> None:
    """The released source leaves Lightning's progress bar, which holds a lock, among the callbacks of the model."""
    code, document, words = rehearse("2.0.1", HERE / "scripts" / "tft_static.py", source="released")
    (fit,) = document["stages"]
    assert (code, fit["outcome"], fit["refused_alone"], fit["patches"]) == (1, "error", True, []), words


def test_the_environment_does_not_affect_other_processes(tmp_path: Path) -> None:
    """The sitecustomize of a rehearsal does nothing in other Python processes, and runs the user's own."""
    from nfpatch.target import REHEARSAL

    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.customized = True\n")
    program = "import sys; print(customized, any('rehearsal' in path for path in sys.path))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(REHEARSAL, tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True False\n"
