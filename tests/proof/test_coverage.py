"""The patches that a proof does not cover, and when that is a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nfpatch.catalog import Case
from nfpatch.proof.report import coverage_in_words, required_in_words, verdict_of
from nfpatch.proof.runner import Coverage, ProofReport
from nfpatch.proof.verdict import CaseResult, ProofCase, result_without_calls

ASIDE, NAMED = {"aside": "it has no cases"}, {"named": "it takes --thorough"}


def result(patch: str, ok: bool = True, **facts: object) -> CaseResult:
    case = ProofCase(f"{patch}/{ok}", patch, Case("NHITS", "MAE"), "patched", "pass")
    return replace(result_without_calls(case, "pass", ""), ok=ok, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("unproved", "proved", "suffices"),
    [
        ({}, (), True),
        ({}, ("one",), True),
        (ASIDE, ("one",), True),
        (ASIDE, (), False),
        (NAMED, ("one",), False),
        ({**ASIDE, **NAMED}, ("one", "two"), False),
    ],
)
def test_a_proof_must_cover_all_named_patches_and_at_least_one(
    unproved: dict[str, str], proved: tuple[str, ...], suffices: bool
) -> None:
    cases = tuple(map(result, proved))
    coverage = Coverage(unproved, missing=("named",) if "named" in unproved else ())
    assert ProofReport(None, None, None, 0.0, cases, coverage=coverage).ok is suffices


def test_a_patch_is_proved_if_all_of_its_cases_have_the_expected_result() -> None:
    cases = (result("one"), result("two"), result("two", ok=False), result("three"))
    coverage = Coverage(ASIDE, (), {"four": "fixed upstream"}, {"five": "--skip five"})
    report = ProofReport(None, None, None, 0.0, cases, coverage=coverage)
    assert report.proved == ("one", "three")
    assert report.patches == ("one", "two", "three", "aside")
    assert verdict_of(report)[-1].startswith("2 of 4 ")
    document = report.to_json()
    assert document["proved"] == ["one", "three"]
    assert document["unproved"] == [{"id": "aside", "reason": "it has no cases"}]
    assert document["not_needed"] == [{"id": "four", "reason": "fixed upstream"}]
    assert document["skipped"] == [{"id": "five", "reason": "--skip five"}]
    for patch_id, line in zip(("four", "five", "aside"), coverage_in_words(report)):
        assert patch_id in line


def test_results_of_the_released_source_only_do_not_prove_a_patch() -> None:
    cases = (result("one", source="released"),)
    coverage = Coverage({"one": "only the released source was run"})
    report = ProofReport(None, None, None, 0.0, cases, coverage=coverage)
    assert report.shows_bugs_only
    assert (report.proved, report.patches) == ((), ("one",))
    assert not replace(report, cases=(*cases, result("one"))).shows_bugs_only


def test_required_patches_in_both_sources_are_reported() -> None:
    required = ("multivariate-all-series",)
    alone = [result("one", source="released"), result("one", source="installed")]
    both = [replace(each, requires=required) for each in alone]
    assert required_in_words(alone) == ""
    assert required_in_words(both) == "released and installed with multivariate-all-series"
    assert required_in_words([both[0], alone[1]]) == "released with multivariate-all-series"
