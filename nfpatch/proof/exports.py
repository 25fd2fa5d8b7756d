"""The proof as a file: JUnit XML for CI systems, and a single self-contained HTML page for people.

What any such file is made of, `rehearsal/exports.py` takes from here.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from nfpatch.console import count, unified_diff
from nfpatch.installs.find import Install
from nfpatch.proof.prove import Agenda
from nfpatch.proof.report import STRATEGIES, coverage_in_words, finding_of, groups, required_in_words, verdict_of
from nfpatch.proof.runner import CaseResult, ProofReport

# What XML 1.0 cannot hold, escaped or not; a process that crashed may have printed it.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --no: #cf222e; --faint: #8888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
body { background: Canvas; color: CanvasText; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; }
tr { border-top: 1px solid var(--faint); }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; }
th { width: 8rem; }
.fits td:nth-child(1) { width: 1.5rem; } .fits td:nth-child(2) { width: 4rem; } .fits td:nth-child(3) { width: 8rem; }
.fits td:nth-child(4) { white-space: pre-line; }
.fits td:nth-child(5) { width: 4rem; text-align: right; padding-right: 0; }
details { margin-top: .3rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--faint); font-size: .85rem; }
.ok { color: var(--ok); } .no { color: var(--no); } td.no, td.ok { font-weight: bold; }
.verdict { border-left: .4rem solid; padding: .2rem 1rem; margin-bottom: 1.5rem; }
ins { color: var(--ok); text-decoration: none; } del { color: var(--no); text-decoration: none; }
@media (prefers-color-scheme: dark) { :root { --ok: #3fb950; --no: #f85149; } }
@media (max-width: 45rem) {
  .fits tr { display: flex; flex-wrap: wrap; }
  .fits td:nth-child(n) { width: auto; padding: .2rem .8rem .2rem 0; }
  .fits td:nth-child(4) { order: 1; width: 100%; } .fits td:nth-child(5) { margin-left: auto; padding-right: 0; }
}
"""


def write_junit_xml(path: Path, install: Install, report: ProofReport) -> None:
    """Writes the proof as JUnit XML: a test case a fit."""
    path.write_bytes(junit_xml(install, report))


def junit_xml(install: Install, report: ProofReport) -> bytes:
    """The proof as JUnit XML. A fit that went through and proves nothing is a failure, one that did not an error.

    A patch that is not proved is skipped, or where it was named a failure.
    """
    cases = [
        TestCase(
            title,
            f"{result.source} source, {STRATEGIES[result.strategy]}",
            result.seconds,
            result.ok,
            result.outcome,
            finding_of(result),
            result.detail,
        )
        for title, results in groups(report)
        for result in results
    ]
    missing = report.coverage.missing
    cases += [
        TestCase(
            patch.id,
            "proof",
            0.0,
            ok=patch.id not in missing,
            outcome="unproved",
            finding=f"not proved: {patch.reason}",
            detail=patch.reason,
            is_skipped=patch.id not in missing,
        )
        for patch in report.coverage.unproved
    ]
    return junit_document("nfpatch verify", _facts(install, report), cases, report.seconds)


class TestCase(NamedTuple):
    """A test case of JUnit's, which takes `seconds`.

    `finding` is what it showed, `detail` why it is not `ok` or is skipped.
    """

    title: str
    name: str
    seconds: float
    ok: bool
    outcome: str
    finding: str
    detail: str
    is_skipped: bool = False

    @property
    def is_error(self) -> bool:
        """Whether it did not come to its end, and is no failure then."""
        return not self.ok and self.outcome in ("error", "timeout")


def junit_document(
    suite_name: str, facts: Iterable[tuple[str, str]], cases: Sequence[TestCase], seconds: float
) -> bytes:
    """JUnit XML of one test suite."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(not case.ok and not case.is_error for case in cases)),
        "errors": str(sum(case.is_error for case in cases)),
        "skipped": str(sum(case.is_skipped for case in cases)),
        "time": f"{seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": suite_name, **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts:
        ElementTree.SubElement(properties, "property", {"name": name, "value": _printable(value)})
    for case in cases:
        _add_test_case(suite, case)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _add_test_case(suite: ElementTree.Element, case: TestCase) -> None:
    attributes = {"classname": case.title, "name": case.name, "time": f"{case.seconds:.3f}"}
    element = ElementTree.SubElement(suite, "testcase", attributes)
    finding = _printable(case.finding)
    if case.is_skipped:
        ElementTree.SubElement(element, "skipped", {"message": _printable(case.detail)})
    if not case.ok:
        message = (finding.splitlines() or [case.outcome])[0]
        kind = "error" if case.is_error else "failure"
        ElementTree.SubElement(element, kind, {"message": message, "type": case.outcome}).text = _printable(case.detail)
    ElementTree.SubElement(element, "system-out").text = finding


def _facts(install: Install, report: ProofReport) -> list[tuple[str, str]]:
    """What was proved, and where."""
    facts = {
        "neuralforecast": f"{install.version} in {install.site_packages}",
        "torch": report.torch,
        "Lightning": report.lightning,
        "Python": report.python,
        "world size": report.world_size,
        "backend": report.backend,
        "seconds": f"{report.seconds:.1f}",
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _printable(text: str) -> str:
    return _NOT_XML.sub("?", text)


def write_html(path: Path, install: Install, agenda: Agenda, report: ProofReport) -> None:
    """Writes the proof as a page that needs no other file."""
    path.write_text(html_page(install, agenda, report), encoding="utf-8")


def html_page(install: Install, agenda: Agenda, report: ProofReport) -> str:
    """The proof as a page: the verdict, the fits, the parameters without a gradient, the diff."""
    title = f"neuralforecast {install.version}: {'proved' if report.ok else 'NOT proved'}"
    parts = [f"<p>{html.escape(line)}</p>" for line in coverage_in_words(report)]
    for heading, results in groups(report):
        required = required_in_words(results)
        parts += [f"<h2>{html.escape(heading)}</h2>", *([f"<p>{html.escape(required)}</p>"] if required else [])]
        parts += [table("fits", map(_row, results)), _parameters(results)]
    if agenda.rewritten:
        parts += ["<h2>The diff</h2>", f"<pre>{_diff(agenda)}</pre>"]
    return page(title, report.ok, verdict_of(report), _facts(install, report), parts)


def page(title: str, ok: bool, verdict: Iterable[str], facts: Iterable[tuple[str, str]], parts: Iterable[str]) -> str:
    """A page that needs no other file: the verdict and the facts, and what else there is, as HTML."""
    heading = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="verdict {class_of(ok)}">'
        + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in verdict)
        + "</div>",
        table("facts", (f"<th>{html.escape(name)}</th><td>{html.escape(value)}</td>" for name, value in facts)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join([*heading, *parts])
        + "\n</body></html>\n"
    )


def table(kind: str, rows: Iterable[str]) -> str:
    """A table of these rows, which are HTML."""
    return f'<table class="{kind}">\n' + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def _row(result: CaseResult) -> str:
    """The cells of one fit."""
    cells = (result.source, STRATEGIES[result.strategy], finding_of(result), f"{result.seconds:.1f} s")
    return row(result.ok, cells)


def row(ok: bool, cells: Iterable[str]) -> str:
    """The cells of a row, which are text, behind its mark."""
    mark = f'<td class="{class_of(ok)}">{"ok" if ok else "NO"}</td>'
    return mark + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def _parameters(results: Iterable[CaseResult]) -> str:
    """The names of the parameters without a gradient, folded away."""
    named = {result.unused_parameters: result for result in results if result.unused_parameters}
    return "".join(
        f"<details><summary>{count(len(names), 'parameter', 'parameters')} without a gradient "
        f"({html.escape(result.source)} source)</summary><pre>{html.escape(chr(10).join(names))}</pre></details>"
        for names, result in named.items()
    )


def _diff(agenda: Agenda) -> str:
    """The diff from the original to the patched source, marked up."""
    tags = {"+": "ins", "-": "del"}
    lines = [line for file, (old, new) in agenda.rewritten.items() for line in unified_diff(file, old, new)]
    return "".join(
        f"<{tags[line[0]]}>{html.escape(line)}</{tags[line[0]]}>" if line[0] in tags else html.escape(line)
        for line in lines
    )


def class_of(ok: bool) -> str:
    """The class of what is as it must be, or is not."""
    return "ok" if ok else "no"
