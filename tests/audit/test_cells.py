"""The cells of every release, computed from its source without imports or trainings."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from releases import RELEASES, unpack
from support import invoke, made_once

from nfpatch.audit.cells import TRAINED_OTHERWISE, cells_of, exogenous_settings
from nfpatch.audit.models import Expression, losses_of, models_of
from nfpatch.audit.options import DISTRIBUTION, LOSSES, OPTIONS, POINT, Training, Varied, entry_of
from nfpatch.audit.run import agenda_for
from nfpatch.catalog import Case
from nfpatch.installs.find import find_install

EVERYTHING = ("static", "historic", "future")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all releases, unpacked."""
    return made_once("releases", tmp_path_factory, lambda folder: [unpack(r, folder / r) for r in RELEASES])


class Release:
    """The facts in the source of a release."""

    def __init__(self, package: Path) -> None:
        self.models = {model.name: model for model in models_of(package)}
        self.losses = losses_of(package)

    def cells(self, name: str) -> list[Case]:
        return cells_of(self.models[name], self.losses)


@pytest.fixture(scope="session")
def release(packages: Path) -> Any:
    """Reads a release, by its number."""
    return functools.cache(lambda number: Release(packages / number / "neuralforecast"))


@pytest.mark.parametrize("number", RELEASES)
def test_every_model_that_a_release_exports_is_found(number: str, release: Any, packages: Path) -> None:
    exports = ast.parse((packages / number / "neuralforecast/models/__init__.py").read_text()).body[0]
    assert isinstance(exports, ast.Assign)
    assert set(release(number).models) == set(ast.literal_eval(exports.value))


@pytest.mark.parametrize("number", RELEASES)
def test_the_table_has_every_option_of_every_model(number: str, release: Any) -> None:
    unknown = [
        f"{model.name}.{option}"
        for model in release(number).models.values()
        for option in model.options
        if f"{model.name}.{option}" not in OPTIONS and option not in OPTIONS
    ]
    assert unknown == []


def test_the_table_has_no_unknown_option(release: Any) -> None:
    used = set()
    for number in RELEASES:
        for model in release(number).models.values():
            for option in model.options:
                used.add(f"{model.name}.{option}" if f"{model.name}.{option}" in OPTIONS else option)
    assert set(OPTIONS) - used == set()


def test_the_table_gives_reasons() -> None:
    assert all(len(entry.why) > 10 for entry in OPTIONS.values())


@pytest.mark.parametrize("number", RELEASES)
def test_every_loss_feature_kind_and_value_has_a_uniquely_named_cell(number: str, release: Any) -> None:
    for name, model in release(number).models.items():
        cells = release(number).cells(name)
        assert len({cell.config for cell in cells}) == len(cells)
        losses = [loss for loss in LOSSES if loss in release(number).losses]
        for loss in losses:
            tried = [cell.exogenous for cell in cells if cell.loss == loss]
            assert [setting for setting in exogenous_settings(model) if setting not in tried] == []
        for option in model.options:
            if isinstance(entry_of(model, option), Varied) and isinstance(model.defaults.get(option), bool):
                tried_values = [cell.options.get(option, model.defaults[option]) for cell in cells]
                assert set(tried_values) == {True, False} or model.exogenous == ()


@pytest.mark.parametrize(
    ("number", "name", "exogenous"),
    [
        ("1.0.0", "TFT", ()),
        ("1.1.0", "TFT", EVERYTHING),
        ("1.5.0", "PatchTST", ()),
        ("1.5.0", "Informer", ("future",)),
        ("1.6.4", "DeepAR", ("static", "future")),
        ("1.7.2", "TSMixer", ()),
        ("1.7.2", "TSMixerx", EVERYTHING),
        ("1.7.4", "NBEATS", ()),
        ("3.3.0", "DeepAR", EVERYTHING),
        ("3.3.0", "TimeXer", ("static", "historic")),
    ],
)
def test_a_model_accepts_the_features_of_its_release(
    number: str, name: str, exogenous: tuple[str, ...], release: Any
) -> None:
    assert release(number).models[name].exogenous == exogenous


# The facts of the classes themselves, in an interpreter that imports them: one document per folder.
ASK = """
import importlib, inspect, json, sys
KINDS = {"static": "STAT", "historic": "HIST", "future": "FUTR"}

def answer(model):
    options = [p for p in inspect.signature(model).parameters.values() if p.kind != p.VAR_KEYWORD]
    return {
        "options": [p.name for p in options],
        "defaults": {p.name: repr(p.default) for p in options},
        "exogenous": [kind for kind, flag in KINDS.items() if getattr(model, "EXOGENOUS_" + flag, False)],
    }

def answers(folder):
    for name in [name for name in sys.modules if name.split(".")[0] == "neuralforecast"]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    models = importlib.import_module("neuralforecast.models")
    return {name: answer(getattr(models, name)) for name in models.__all__}

print(json.dumps([answers(folder) for folder in sys.argv[1:]]))
"""


def test_the_parsed_options_match_the_imported_classes(release: Any, training_env: Path, packages: Path) -> None:
    numbers = ("1.7.4", "3.3.0")
    command = [training_env, "-c", ASK, *(packages / number for number in numbers)]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    for number, truth in zip(numbers, json.loads(asked.stdout.splitlines()[-1])):
        assert set(truth) == set(release(number).models)
        for name, model in release(number).models.items():
            assert list(model.options) == truth[name]["options"]
            assert list(model.exogenous) == truth[name]["exogenous"]
            for option, default in model.defaults.items():
                if not isinstance(default, Expression):
                    assert repr(default) == truth[name]["defaults"][option]


def test_an_option_is_varied_only_with_those_that_it_needs(release: Any) -> None:
    first, *others = release("3.3.0").cells("TFT")
    assert first == Case("TFT", POINT, POINT, (), {"hidden_size": 16, "windows_batch_size": 16})
    varied = {
        name: value
        for cell in others
        for name, value in cell.options.items()
        if cell.config == "MAE, static+historic+future, one_rnn_initial_state=True" and name not in first.options
    }
    assert varied == {"one_rnn_initial_state": True, "n_rnn_layers": 2}


@pytest.mark.parametrize(
    ("number", "name", "option", "choices"),
    [
        ("1.1.0", "DilatedRNN", "cell_type", ("GRU", "RNN", "LSTM", "ResLSTM", "AttentiveLSTM")),
        ("1.7.4", "TimeMixer", "down_sampling_method", ("avg", "max", "conv")),
        ("2.0.1", "TFT", "rnn_type", ("LSTM", "GRU")),
        ("3.3.0", "TFT", "rnn_type", ("lstm", "gru")),
        ("3.3.0", "RMoK", "wavelet_function", ("mexican_hat", "morlet", "dog", "meyer", "shannon")),
    ],
)
def test_choices_are_found_in_the_docstring(
    number: str, name: str, option: str, choices: tuple[str, ...], release: Any
) -> None:
    assert release(number).models[name].choices[option] == choices
    tried = {cell.options.get(option, choices[0]) for cell in release(number).cells(name)}
    assert set(choices) <= tried | {release(number).models[name].defaults[option]}


def test_a_value_is_tried_only_in_releases_that_have_it(release: Any) -> None:
    def tries_revin(number: str) -> bool:
        return any("scaler_type" in cell.options for cell in release(number).cells("MLP"))

    assert [number for number in ("1.5.0", "1.6.4", "3.3.0") if tries_revin(number)] == ["1.6.4", "3.3.0"]
    assert not any(cell.loss == "IQLoss" for cell in release("1.5.0").cells("MLP"))


def test_options_of_a_model_for_distributions_are_varied_with_a_distribution(release: Any) -> None:
    varied = [cell.loss for cell in release("1.7.4").cells("DeepAR") if "lstm_n_layers" in cell.options]
    assert set(varied) == {DISTRIBUTION}


def test_a_validation_loss_is_replaced_only_if_it_is_incompatible_with_the_loss(release: Any) -> None:
    def replaced(name: str) -> set[str]:
        cells = release("1.7.4").cells(name)
        return {cell.loss for cell in cells if cell.options.get("valid_loss", "its own") is None}

    assert replaced("DeepNPTS") == {"MQLoss", "IQLoss"}
    assert replaced("DeepAR") == {"MAE", "MQLoss", "IQLoss"}
    assert replaced("MLP") == set()


def test_one_cell_varies_all_training_options(release: Any) -> None:
    for name, model in release("3.3.0").models.items():
        matters = {option for option in model.options if isinstance(entry_of(model, option), Training)}
        (cell,) = [each for each in release("3.3.0").cells(name) if TRAINED_OTHERWISE in each.config] or [None]
        assert (cell is None) == (not matters)
        if cell is not None:
            varied = {option for option, value in cell.options.items() if value != model.defaults.get(option)}
            assert matters <= varied
            # What it is compared with
            assert cell.config.replace(f", {TRAINED_OTHERWISE}", "") in [c.config for c in release("3.3.0").cells(name)]


def test_a_release_has_about_a_thousand_cells(release: Any) -> None:
    number = sum(len(release("3.3.0").cells(name)) for name in release("3.3.0").models)
    assert 500 < number < 1100


def test_an_unknown_model_is_a_usage_error_that_names_the_near_ones(packages: Path) -> None:
    where = ("--site-packages", packages / "3.3.0")
    near = invoke("audit", "tft", *where)
    assert near.exit_code == 2
    assert "has no model named 'tft'. Did you mean TFT" in near.stderr
    far = invoke("audit", "MLP", "Quux", *where)
    assert far.exit_code == 2
    assert "It has RNN, GRU" in far.stderr


def test_an_unknown_option_is_varied_by_its_default_and_docstring(tmp_path: Path) -> None:
    package = unpack("3.3.0", tmp_path) / "neuralforecast"
    mlp = package / "models/mlp.py"
    text = mlp.read_text()
    mlp.write_text(
        text.replace("        num_layers=2,", "        num_layers=2, gated=False, kind='a', width=WIDTH,").replace(
            "        num_layers (int):", "        kind (str): one of ['a', 'b'].\n        num_layers (int):"
        )
    )
    install = find_install(None, tmp_path)
    agenda = agenda_for(install, ["MLP"])
    assert agenda.unknown_options == ("MLP.gated", "MLP.kind", "MLP.width")
    tried = {(name, cell.options[name]) for cell in agenda.cells for name in ("gated", "kind") if name in cell.options}
    assert tried == {("gated", True), ("kind", "b")}
    assert agenda_for(install, ["RNN"]).unknown_options == ()


def test_an_invalid_source_is_an_environment_error(tmp_path: Path) -> None:
    site = unpack("1.7.4", tmp_path)
    (site / "neuralforecast/models/mlp.py").write_text("class MLP(:")
    broken = invoke("audit", "MLP", "--site-packages", site)
    assert broken.exit_code == 4
    assert "mlp.py" in broken.stderr
