"""The reports of a proof as JUnit XML and HTML."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nfpatch.engine.probe import Stack
from nfpatch.engine.report import junit_of, page_of
from nfpatch.installs.find import Install, find_install
from nfpatch.proof.prove import Agenda
from nfpatch.proof.report import conditions_of, document_of, print_report
from nfpatch.proof.runner import Coverage, ProofReport
from nfpatch.proof.verdict import CaseResult

VOID = {"meta", "br", "hr"}


def case(number: int, ok: bool, outcome: str, detail: str = "", unused: tuple[str, ...] = ()) -> CaseResult:
    return CaseResult(
        id=f"{number}",
        patch="p",
        model="TFT",
        config="<none>",
        source="patched" if number else "released",
        expect="unused-parameters" if unused else "pass",
        outcome=outcome,
        ok=ok,
        unused_parameters=unused,
        seconds=1.5,
        detail=detail,
        steps=3,
        parameters=4030,
        forecast_shape=(24, 1),
    )


@pytest.fixture
def install(site: Path) -> Install:
    return find_install(None, site)


def report(*cases: CaseResult) -> ProofReport:
    return ProofReport(Stack("3.11.7", "2.13.0", "2.6.6", None), 2, "gloo", 12.5, cases)


def test_junit_xml_has_one_test_case_per_fit_with_failures_and_errors(install: Install) -> None:
    refused = case(0, True, "unused-parameters", unused=("static_encoder.a", "static_encoder.b"))
    failed = case(1, False, "pass", "every parameter got a gradient")
    crashed = case(2, False, "error", "rank 1: ValueError: \x1b[31mno & <never>\nplace.py:1 in f")

    (suite,) = ElementTree.fromstring(junit_of(document_of(install, report(refused, failed, crashed))))

    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "time")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "time": "12.500",
    }
    found = {test.get("name"): test for test in suite.iter("testcase")}
    assert len(suite.findall("testcase")) == 3
    assert found["released source, strict DDP"].find("failure") is None
    error = suite.find("testcase/error")
    assert error.get("type") == "error"
    assert "no & <never>\nplace.py:1" in error.text
    assert suite.find("testcase/failure").text == "every parameter got a gradient"


def test_the_page_is_self_contained_and_has_table_parameters_and_diff(install: Install) -> None:
    unused = ("static_encoder.a", "static_encoder.b", "static_encoder.c", "static_encoder.d")
    agenda = Agenda((), {}, rewritten={"neuralforecast/models/tft.py": (b"a = 1 < 2\n", b"a = 3\n")})

    cases = (case(0, True, "unused-parameters", unused=unused), case(1, True, "pass"))
    page = page_of(document_of(install, report(*cases), agenda))

    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.foreign == []
    assert "neuralforecast 1.7.4: proved" in page
    assert "TFT, &lt;none&gt;" in page
    assert "\n".join(unused) in page
    assert "<del>-a = 1 &lt; 2\n</del><ins>+a = 3\n</ins>" in page
    assert page.count('<td class="ok">ok</td>') == 2


def test_the_page_of_a_failed_proof_shows_that(install: Install) -> None:
    page = page_of(document_of(install, report(case(1, False, "pass", "the ranks ended with other weights"))))

    assert "NOT proved" in page
    assert "the ranks ended with other weights" in page
    assert '<td class="no">NO</td>' in page


def test_the_page_does_not_mark_an_unproved_patch_as_ok(install: Install) -> None:
    coverage = Coverage({"aside": "it has no cases", "named": "it takes --thorough"}, missing=("named",))
    page = page_of(document_of(install, replace(report(case(1, True, "pass")), coverage=coverage)))

    assert [page.count(f">{mark}</td>") for mark in ("ok", "--", "NO")] == [1, 1, 1]


def test_the_text_has_each_patch_each_failure_and_if_verbose_each_fit(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    unused = ("static_encoder.a", "static_encoder.b")
    found = report(case(0, True, "unused-parameters", unused=unused), case(1, False, "error", "rank 1: no luck"))

    print_report(install, found)
    short = capsys.readouterr().out
    print_report(install, found, verbose=True)
    everything = capsys.readouterr().out

    (line,) = (line for line in short.splitlines() if line.startswith("  NO  p "))
    assert "2 unused parameters" in line
    assert "rank 1: no luck" in short
    assert "static_encoder.a" not in short
    assert "static_encoder.a" in everything
    assert "rank 1: no luck" in everything


class Reader(HTMLParser):
    """Collects unclosed tags and external resources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe") or any(name in ("src", "href") for name, _ in attrs):
            self.foreign.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_shared_gpu_is_the_reason_for_gloo() -> None:
    on_cpu = report(case(0, True, "pass"))
    on_gpu = replace(on_cpu, accelerator="gpu")

    assert "backend gloo" in conditions_of(on_gpu)
    assert "nccl" in conditions_of(on_gpu)
    assert "backend nccl" in conditions_of(replace(on_gpu, backend="nccl"))
    assert "share" not in conditions_of(on_cpu)
