"""`nfpatch which`, run as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import COMMANDS, answer, invoke, run_nfpatch

from nfpatch.which.matching import ONLY_IF

LOGS = Path(__file__).parent / "logs"
NBEATSX, TFT, PREDICT = (
    LOGS / f"{name}.log" for name in ("nbeatsx-script-1.7.4", "tft-info-1.4.0", "nhits-predict-1.7.4")
)


def states(site: Path, *text: object) -> dict[str, str]:
    document = answer("which", *text, "--site-packages", site)
    return {match["id"]: match["state"] for match in document["matches"]}


def test_which_names_the_patches_that_the_install_needs_and_the_command(site: Path) -> None:
    result = invoke("which", NBEATSX, "--site-packages", site)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"neuralforecast 1.7.4 in {site}" in result.stdout
    assert f"  nfpatch apply nbeatsx-unused-out --site-packages {site}\n" in result.stdout
    assert "nhits-unused-out" not in result.stdout


def test_there_is_one_command_without_the_patches_that_are_applied(site: Path) -> None:
    document = answer("which", NBEATSX, "--site-packages", site)
    (command,) = document["commands"]
    assert invoke(*command.split()[1:]).exit_code == 0
    again = answer("which", NBEATSX, "--site-packages", site)
    assert [match["state"] for match in again["matches"]] == ["applied"]
    assert again["commands"] == []
    assert invoke("which", NBEATSX, "--site-packages", site).exit_code == 0


def test_the_json_has_the_promised_shape(site: Path) -> None:
    document = answer("which", PREDICT, "--site-packages", site)
    assert document["schema_version"] == 1
    assert document["neuralforecast"]["version"] == "1.7.4"
    assert document["matches"] == [
        {
            "id": "predict-on-one-device",
            "line": 45,
            "words": "could not broadcast input array from shape",
            "state": "applicable",
            "only_if": ONLY_IF,
        }
    ]


def test_the_release_decides_between_patches_for_one_name(released: Callable[[str], Path]) -> None:
    assert states(released("1.1.0"), "out.weight") == {"nhits-unused-out": "applicable"}
    assert states(released("1.5.0"), "out.weight") == {"nbeatsx-unused-out": "applicable"}
    newest = released("3.3.0")
    assert set(states(newest, "out.weight").values()) == {"not-needed"}
    result = invoke("which", "out.weight", "--site-packages", newest)
    assert result.exit_code == 1
    assert "nfpatch rehearse" in result.stdout
    assert "nfpatch apply" not in result.stdout


def test_no_install_is_needed_unless_one_is_named(tmp_path: Path) -> None:
    done = run_nfpatch("which", TFT, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert document["neuralforecast"] is None
    assert [(match["id"], match["state"]) for match in document["matches"]] == [("tft-static-encoder", None)]
    assert document["commands"] == ["nfpatch apply tft-static-encoder"]
    assert "1.0.0 - 1.7.4" in run_nfpatch("which", TFT).stdout
    assert invoke("which", TFT, "--site-packages", tmp_path).exit_code == 4


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_which_reads_standard_input(argument: list[str], site: Path) -> None:
    command = [sys.executable, "-m", "nfpatch", "which", *argument, "--json", "--site-packages", str(site)]
    done = subprocess.run(command, input=b"\xff\xfe\n" + PREDICT.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0
    assert [match["line"] for match in json.loads(done.stdout)["matches"]] == [46]


def test_the_argument_may_be_the_text_itself(site: Path) -> None:
    for text in ("ValueError: could not broadcast input array from shape (24,1) into shape (48,1)", "ActorDiedError"):
        assert len(states(site, text)) == 1
    for text in ("lost.log", "logs"):
        result = invoke("which", text, "--json")
        assert (result.exit_code, json.loads(result.stdout)["exit_code"]) == (2, 2)
    assert invoke("which", LOGS).exit_code == 2


def test_no_match_is_exit_code_1(site: Path) -> None:
    for text in ("ValueError: nothing that is known", (LOGS / "nhits-save-1.7.4.log").read_text()):
        result = invoke("which", text, "--site-packages", site)
        assert result.exit_code == 1
        assert "nfpatch rehearse SCRIPT" in result.stdout
    assert answer("which", "ValueError: no", "--site-packages", site)["matches"] == []


def test_a_saved_model_that_does_not_fit_leads_to_migrate(site: Path) -> None:
    text = 'Error(s) in loading state_dict for NBEATSx: Unexpected key(s) in state_dict: "out.weight", "out.bias".'
    result = invoke("which", text, "--site-packages", site)
    assert result.exit_code == 1
    assert "nfpatch migrate" in result.stdout


def test_an_unused_layer_of_the_user_is_named(site: Path) -> None:
    result = invoke("which", "adapter.weight", "--site-packages", site)
    assert result.exit_code == 1
    assert "adapter.weight" in result.stdout
    assert "requires_grad_(False)" in result.stdout
    assert answer("which", "adapter.weight", "--site-packages", site)["unknown_parameters"] == ["adapter.weight"]


def test_a_log_without_parameter_names_gives_the_group(site: Path) -> None:
    result = invoke("which", LOGS / "nbeatsx-1.4.0.log", "--site-packages", site)
    assert result.exit_code == 0
    assert "TORCH_DISTRIBUTED_DEBUG=INFO" in " ".join(result.stdout.split())
    assert f"  nfpatch apply unused-parameters --site-packages {site}\n" in result.stdout
    by_lightning = " ".join(invoke("which", LOGS / "tft-torchrun-1.7.4.log", "--site-packages", site).stdout.split())
    assert "nfpatch audit" in by_lightning
    assert "TORCH_DISTRIBUTED_DEBUG=INFO" not in by_lightning, "Lightning 2 does not show it"


def test_the_command_for_a_modified_file_has_its_option(site: Path) -> None:
    path = site / "neuralforecast/models/nbeatsx.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    (command,) = answer("which", NBEATSX, "--site-packages", site)["commands"]
    assert command == f"nfpatch apply nbeatsx-unused-out --allow-modified --site-packages {site}"


def test_a_users_patch_is_found_by_its_symptoms(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from nfpatch.catalog import Patch\n"
        'patch = Patch(id="mine", summary="s", group="ours", model="MLP", upstream="", variants={}, cases=(),\n'
        '    unaffected={"": "no"}, symptoms=("the gate is closed",), ambiguous=("the gate is closed",))\n'
    )
    document = answer("which", "the gate is closed", "--patches", tmp_path, "--site-packages", site)
    assert [match["id"] for match in document["matches"]] == ["mine"]


def test_ambiguous_entries_must_be_symptoms(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from nfpatch.catalog import Patch\n"
        'patch = Patch(id="mine", summary="s", group="ours", model="MLP", upstream="", variants={}, cases=(),\n'
        '    unaffected={"": "no"}, ambiguous=("the gate is closed",))\n'
    )
    assert invoke("list", "--patches", tmp_path).exit_code == 2


def test_list_marks_symptoms_with_other_causes() -> None:
    listed = {patch["id"]: patch for patch in answer("list")["patches"]}
    assert "mat1 and mat2 shapes cannot be multiplied" in listed["multivariate-all-series"]["ambiguous"]
    assert f"FileNotFoundError ({ONLY_IF})" in invoke("list").stdout


def test_which_is_a_quick_command() -> None:
    """Like `status`, it imports nothing slow; `benchmarks/commands.py` measures it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nfpatch", "which", str(NBEATSX)], capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "nfpatch.which.matching" in imported
    assert not imported & {"libcst", "torch", "rich", "packaging", "neuralforecast", "importlib.metadata"}
    assert "which" in COMMANDS
