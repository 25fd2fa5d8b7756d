"""What `make same-bits` compares, which differences it allows, and what its page shows."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import same_bits
from releases import unpack
from same_bits import FitComparison

from nfpatch.audit.models import models_of
from nfpatch.catalog import Case, load_catalog

MAE, QUANTILES = Case("TFT", "MAE"), Case("TFT", "MQLoss", "MQLoss")
EQUAL = FitComparison("1.7.4", MAE, "all", ())
DIFFERENT = replace(EQUAL, differences=("weights", "forecasts"))
STACK = {"python": "3.11.7", "torch": "2.13.0", "lightning": "2.6.6"}
RESULT = {"weights": {"a": "1", "b": "2"}, "random_streams": {"torch": "3"}, "train_losses": ["0x1p+1"]}


def test_all_differences_are_reported() -> None:
    def differences(**changes: object) -> tuple[str, ...]:
        return same_bits.compare_fits("1.7.4", MAE, "all", RESULT, {**RESULT, **changes}).differences

    assert differences() == ()
    assert differences(weights={"a": "1"}) == ("weights",)
    assert differences(weights={"a": "1", "b": "4"}, random_streams={"torch": "4"}) == ("random_streams", "weights")
    assert differences(cross_validation="5") == ("cross_validation",)


def test_an_error_with_one_source_only_is_a_difference() -> None:
    error = {"error": "ValueError: no"}
    assert same_bits.compare_fits("1.7.4", MAE, "all", error, error) == replace(EQUAL, error="ValueError: no")
    assert "error" in same_bits.compare_fits("1.7.4", MAE, "all", RESULT, error).differences
    assert same_bits.compare_fits("1.7.4", MAE, "all", error, {"error": "KeyError: a"}).differences == ("error",)


def test_a_difference_is_allowed_only_if_the_two_patches_cause_it() -> None:
    without = replace(EQUAL, patches="without")
    assert same_bits.failures_in([DIFFERENT, without]) == []
    assert same_bits.exceptions_in([DIFFERENT, without]) == {"TFT of 1.7.4": ["MAE"]}
    other = replace(DIFFERENT, case=QUANTILES)
    assert same_bits.failures_in([DIFFERENT, without, other]) == [other]
    assert same_bits.failures_in([DIFFERENT, replace(DIFFERENT, patches="without")]) == [
        DIFFERENT,
        replace(DIFFERENT, patches="without"),
    ]
    elsewhere = replace(DIFFERENT, release="3.3.0")
    assert same_bits.failures_in([DIFFERENT, without, elsewhere]) == [elsewhere]


def test_the_page_has_the_number_of_equal_runs_and_what_was_not_trained() -> None:
    outcomes = [
        DIFFERENT,
        replace(EQUAL, patches="without"),
        replace(EQUAL, case=QUANTILES),
        replace(EQUAL, case=QUANTILES, patches="without"),
        replace(EQUAL, release="3.3.0"),
        replace(EQUAL, release="3.3.0", case=QUANTILES, error="Exception: refused"),
        FitComparison("3.3.0", Case("TimeLLM", "MAE"), "all", (), "ImportError: no transformers"),
    ]
    page = same_bits.page_of(outcomes, ("1.7.4", "3.3.0"), STACK)
    assert "| TFT | 1 of 2 / 2 | 1 |\n" in page
    assert "| TimeLLM |  |  |\n" in page
    assert "* TFT of 1.7.4: MAE\n" in page
    assert "* TimeLLM of 3.3.0: ImportError: no transformers\n" in page
    assert re.search(r"\b3 configurations\b", page)
    worse = same_bits.page_of([*outcomes, replace(DIFFERENT, release="3.3.0")], ("1.7.4", "3.3.0"), STACK)
    assert re.search(r"\b1 of them\b", worse)
    assert not re.search(r"\b1 of them\b", page)


@pytest.mark.parametrize("release", same_bits.RELEASES)
def test_every_model_and_every_unused_parameter_case_is_compared(release: str, tmp_path: Path) -> None:
    package, catalog = unpack(release, tmp_path) / "neuralforecast", load_catalog()
    cases = same_bits.cases_of(package, release, catalog)
    assert {case.model for case in cases.values()} >= {model.name for model in models_of(package)}
    named = [
        case
        for patch in catalog.patches
        if patch.unused_parameters and catalog.rewrites_for(patch, release)
        for case in patch.cases
        if case.is_possible_in(release)
    ]
    assert named
    assert {(case.model, case.config) for case in named} <= {(case.model, case.config) for case in cases.values()}
    specified = [same_bits.specified(case) for case in cases.values()]
    assert {each["case"]["loss"] for each in specified} >= {"MAE", "MQLoss", "DistributionLoss"}


@pytest.mark.ddp
def test_a_removed_layer_changes_the_initial_weights_of_later_layers(training_env: Path, tmp_path: Path) -> None:
    released = unpack("3.3.0", tmp_path / "released")
    shutil.copytree(released, tmp_path / "patched")
    stemgnn = tmp_path / "patched" / "neuralforecast" / "models" / "stemgnn.py"
    line = "        self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)\n"
    text = stemgnn.read_text()
    assert text.count(line) == 1
    stemgnn.write_text(text.replace(line, f"        if self.stack_cnt == 0:\n    {line}"))
    cases = {
        "changed": Case("StemGNN", "MAE", options={"multi_layer": 1}),
        "same": Case("NHITS", "MAE", options={"mlp_units": [[8, 8]] * 3}),
    }
    before, after = (
        same_bits.fit_all(tmp_path / name, cases, training_env, tmp_path / f"fits-{name}")
        for name in ("released", "patched")
    )
    outcomes = {name: same_bits.compare_fits("3.3.0", cases[name], "all", before[name], after[name]) for name in cases}
    assert set(outcomes["changed"].differences) >= {"weights", "forecasts", "train_losses", "valid_losses"}
    assert outcomes["same"].differences == ()
    assert len(before["same"]["train_losses"]) == 4
    assert len(before["same"]["valid_losses"]) == 2
