"""`audit` on real installs: real trainings of real models, some of them with planted bugs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import invoke, run_nfpatch, snapshot

from nfpatch.audit.cells import TRAINED_OTHERWISE
from nfpatch.audit.report import sentences_of
from nfpatch.audit.run import AuditReport, Cell, TrainingCheck
from nfpatch.catalog import Case

PLANTED = ["planted.weight", "planted.bias"]
LIN_C = "static_encoder.vsn.joint_grn.lin_c.weight"
VALID_LOSS = [
    *(f"valid_loss.output_layer.{name}" for name in ("0.bias", "0.weight", "1.weight")),
    *(f"valid_loss.quantile_layer.output_layer.{name}" for name in ("0.bias", "0.weight", "1.weight")),
    *(f"valid_loss.quantile_layer.output_layer.2.{name}" for name in ("bias", "weight")),
]
REVIN = ["scaler.revin_bias", "scaler.revin_weight"]


def plant(site: Path, model: str, before: str, line: str) -> None:
    """Insert a line before a line of a model's source, with the same indentation."""
    file = site / f"neuralforecast/models/{model}.py"
    text = file.read_text()
    assert text.count(before) == 1
    indent = before[: len(before) - len(before.lstrip())]
    file.write_text(text.replace(before, f"{indent}{line}\n{before}"))


@pytest.fixture
def planted(site: Path) -> Path:
    """neuralforecast 1.7.4 with some of its bugs patched, and with planted ones."""
    patches = (
        "tft-static-encoder",
        "valid-loss-parameters",
        "multivariate-all-series",
    )  # else TSMixer crashes in two processes
    assert invoke("apply", *patches, "--site-packages", site).exit_code == 0
    plant(site, "dlinear", "        self.linear_trend = nn.Linear(", "self.planted = nn.Linear(2, 2)")
    plant(site, "nlinear", "        self.linear = nn.Linear(", "self.planted = nn.Linear(1, 1)")
    at_random = "insample_y = self.planted(insample_y[..., None])[..., 0] if torch.rand(1) < 0.5 else insample_y"
    plant(site, "nlinear", "        # Input normalization", f"import torch; {at_random}")
    dying = "import os, signal; self.use_norm or os.kill(os.getpid(), signal.SIGKILL)"
    plant(site, "softs", '        insample_y = windows_batch["insample_y"]', dying)
    return without_transformers(site)


def without_transformers(site: Path) -> Path:
    """The same tree, in which TimeLLM cannot import `transformers`, even if it is installed."""
    timellm = site / "neuralforecast/models/timellm.py"
    timellm.write_text(timellm.read_text().replace("from transformers import", "from no_transformers import"))
    plant(site, "timellm", "        if self.llm is None:", "self.llm = None")
    return site


def by_config(document: Any, model: str) -> dict[str, Any]:
    return {cell["config"]: cell for cell in document["cells"] if cell["model"] == model}


def unused(document: Any, model: str) -> dict[str, list[str]]:
    """The unused parameters of a model, by configuration."""
    return {
        config: sorted(cell["unused_parameters"])
        for config, cell in by_config(document, model).items()
        if cell["outcome"] == "unused"
    }


@pytest.mark.ddp
def test_planted_bugs_are_found_and_cells_that_cannot_run_are_named(planted: Path, training_env: Path) -> None:
    before = snapshot(planted)
    models = ("DLinear", "NLinear", "SOFTS", "TSMixer", "TFT", "TimeLLM")
    ran = run_nfpatch("audit", *models, "--json", "--python", training_env, "--site-packages", planted)
    assert ran.returncode == 1, ran.stderr
    document = json.loads(ran.stdout)
    promised = {"model", "config", "outcome", "unused_parameters", "detail"}
    assert all(promised <= set(cell) for cell in document["cells"])
    assert {cell["model"] for cell in document["cells"]} == set(models)
    assert document["neuralforecast"]["version"] == "1.7.4"

    # A layer that is never used, and one that is used at random.
    for model in ("DLinear", "NLinear"):
        found = unused(document, model)
        assert set(found) == set(by_config(document, model))
        assert all(set(PLANTED) <= set(parameters) for parameters in found.values())
    # A process that crashes affects only its own cell.
    killed = by_config(document, "SOFTS")["MAE, use_norm=False"]
    assert killed["outcome"] == "error"
    assert "SIGKILL" in killed["detail"]
    others = [cell for cell in by_config(document, "SOFTS").values() if cell is not killed]
    assert {cell["outcome"] for cell in others if not cell["refused"]} == {"clean"}
    # Cells that the release itself rejects.
    refused = by_config(document, "TSMixer")["MQLoss"]
    assert (refused["outcome"], refused["refused"]) == ("error", True)
    assert "MQLoss() is not supported in a Multivariate model" in refused["detail"]
    assert by_config(document, "TSMixer")["MAE"]["outcome"] == "clean"
    # Patched without static features; with them it has another bug.
    assert by_config(document, "TFT")["MAE"]["outcome"] == "clean"
    static = [config for config, cell in by_config(document, "TFT").items() if "static" in cell["exogenous"]]
    assert len(static) > 6
    assert all(LIN_C in unused(document, "TFT")[config] for config in static)
    # Cells that cannot run here.
    assert {cell["outcome"] for cell in by_config(document, "TimeLLM").values()} == {"error"}
    assert list(document["not_audited"]) == ["TimeLLM"]
    assert "Please install `transformers`" in document["not_audited"]["TimeLLM"]

    assert "NO  DLinear, 10 with unused parameters" in ran.stderr
    assert "--  TimeLLM, not audited" in ran.stderr
    assert snapshot(planted) == before


@pytest.mark.ddp
def test_strict_ddp_rejects_the_cells_with_unused_parameters(planted: Path, training_env: Path) -> None:
    ran = run_nfpatch("audit", "DLinear", "TSMixer", "--ddp", "--python", training_env, "--site-packages", planted)
    assert ran.returncode == 1, ran.stderr
    assert all(len(line) <= 80 for line in ran.stdout.splitlines()[1:])
    rows = [line.split() for line in ran.stdout.splitlines()]
    assert ["DLinear", "10", ".", "10", ".", "."] in rows
    assert ["TSMixer", "12", "6", ".", "6", "."] in rows
    assert "planted.bias, planted.weight" in ran.stdout
    assert "by strict DDP in 2 processes" in ran.stdout


@pytest.mark.ddp
def test_patches_that_act_only_on_several_ranks_take_effect(
    released: Callable[[str], Path], training_env: Path
) -> None:
    site = released("3.3.0")
    patches = ("softssharp-position-scale", "multivariate-all-series", "valid-loss-parameters")
    assert invoke("apply", *patches, "--site-packages", site).exit_code == 0
    ran = invoke("audit", "SOFTSSharp", "--json", "--python", training_env, "--site-packages", site)
    document = json.loads(ran.stdout)
    # the scaler is not patched here, so that it is unused in two processes as well
    assert {config: names for config, names in unused(document, "SOFTSSharp").items() if "revin" not in config} == {}
    revin = unused(document, "SOFTSSharp")["MAE, scaler_type='revin'"]
    assert set(revin) >= set(REVIN)


@pytest.mark.ddp
def test_the_newest_release_has_the_known_unused_parameters(
    released: Callable[[str], Path], training_env: Path
) -> None:
    site = released("3.3.0")
    models = ("SOFTSSharp", "HINT", "DLinear")
    ran = invoke("audit", *models, "--json", "--python", training_env, "--site-packages", site)
    assert ran.exit_code == 1
    document = json.loads(ran.stdout)
    scales = [f"encoder.attn_layers.{layer}.attention.pe_scale" for layer in (0, 1)]
    assert unused(document, "SOFTSSharp")["MAE"] == scales
    assert unused(document, "DLinear") == {
        "MAE, scaler_type='revin'": REVIN,
        "MQLoss, scaler_type='revin'": REVIN,
        "IQLoss, valid_loss='IQLoss'": VALID_LOSS,
    }
    assert set(document["training"]["alike"]) == set(models)
    assert set(document["training"]["options"]) > {"learning_rate", "optimizer", "lr_scheduler", "val_monitor"}
    hint = by_config(document, "HINT")
    assert {config for config, cell in hint.items() if cell["refused"]} == {"MAE", "MQLoss", "IQLoss"}
    assert {cell["outcome"] for cell in hint.values() if not cell["refused"]} == {"clean"}


@pytest.mark.ddp
def test_an_audit_in_which_no_cell_trains_is_an_environment_error(site: Path, training_env: Path) -> None:
    ran = invoke("audit", "TimeLLM", "--python", training_env, "--site-packages", without_transformers(site))
    assert ran.exit_code == 4
    assert "Nothing could be audited: TimeLLM, MAE: " in ran.stderr
    assert ran.stdout == ""


def test_without_torch_audit_is_an_environment_error(site: Path) -> None:
    ran = invoke("audit", "MLP", "--site-packages", site)
    assert ran.exit_code == 4
    assert "has no torch" in ran.stderr


@pytest.mark.parametrize(
    ("cells", "ok", "not_audited"),
    [
        ([("MLP", "clean", True)], True, []),
        ([("MLP", "clean", True), ("MLP", "unused", True)], False, []),
        ([("MLP", "clean", True), ("MLP", "error", True), ("TFT", "error", True)], True, ["TFT"]),
        ([("MLP", "clean", True), ("MLP", "error", False)], False, []),
    ],
)
def test_an_audit_is_clean_if_it_finished_without_unused_parameters(
    cells: list[tuple[str, Any, bool]], ok: bool, not_audited: list[str]
) -> None:
    report = AuditReport(
        tuple(
            Cell(Case(model, "MAE"), outcome, (), "rank 1: why not\nmore", False, is_finished, 0.0)
            for model, outcome, is_finished in cells
        ),
        *((), False, None, 0.0),
    )
    assert report.ok is ok
    assert report.not_audited == dict.fromkeys(not_audited, "why not")


def test_options_declared_irrelevant_are_varied_in_one_cell() -> None:
    def cell(model: str, varied: str, outcome: Any, *unused: str) -> Cell:
        options = {"learning_rate": 0.01, "hidden_size": 16} if varied else {"hidden_size": 16}
        return Cell(Case(model, f"MAE{varied}", options=options), outcome, unused, "", False, True, 0.0)

    varied = f", {TRAINED_OTHERWISE}"
    cells = (
        *(cell("MLP", "", "clean"), cell("MLP", varied, "clean")),
        *(cell("TFT", "", "unused", "a"), cell("TFT", varied, "unused", "a")),
        *(cell("GRU", "", "unused", "a"), cell("GRU", varied, "unused", "b")),
        *(cell("RNN", "", "clean"), cell("RNN", varied, "error")),
    )
    report = AuditReport(cells, (), False, None, 0.0)
    check = TrainingCheck({"learning_rate": 0.01}, ("MLP", "TFT"), ("GRU",), ("RNN",))
    assert report.training == check
    sentences = " ".join(sentences_of(report))
    for words in ("learning_rate=0.01", "2 models", "GRU", "RNN"):
        assert words in sentences
