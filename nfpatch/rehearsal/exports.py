"""The rehearsal as a file: JUnit XML for CI systems, and a single self-contained HTML page for people."""

from __future__ import annotations

import html
import shlex
from pathlib import Path

from nfpatch.installs.find import Install
from nfpatch.proof.exports import TestCase, junit_document, page, row, table
from nfpatch.rehearsal.report import lines_of, verdict_of
from nfpatch.rehearsal.run import RehearsalReport, Script


def write_junit_xml(path: Path, install: Install, script: Script, report: RehearsalReport) -> None:
    """Writes the rehearsal as JUnit XML: a test case a call, and one for the end of the script."""
    path.write_bytes(junit_xml(install, script, report))


def junit_xml(install: Install, script: Script, report: RehearsalReport) -> bytes:
    """The rehearsal as JUnit XML. What ended with an error or not at all is an error, what differs is a failure."""
    cases = [
        TestCase(
            script.name,
            f"{stage.place} {stage.call}",
            0.0,
            stage.ok,
            stage.outcome,
            "\n".join([*stage.ranks, *lines_of(stage)]),
            stage.detail,
        )
        for stage in report.stages
    ]
    came_to_end = report.exit_code == 0
    words = " ".join(verdict_of(report))
    cases.append(TestCase(script.name, "the script", report.seconds, came_to_end, "error", words, report.tail))
    return junit_document("nfpatch rehearse", _facts(install, script, report), cases, report.seconds)


def write_html(path: Path, install: Install, script: Script, report: RehearsalReport) -> None:
    """Writes the rehearsal as a page that needs no other file."""
    path.write_text(html_page(install, script, report), encoding="utf-8")


def html_page(install: Install, script: Script, report: RehearsalReport) -> str:
    """The rehearsal as a page: the verdict, the calls by rank, what the script printed last."""
    title = f"{script.name}: {'rehearsed' if report.ok else 'NOT as in one process'}"
    rows = (
        row(
            stage.ok, (stage.place, f"{stage.call} ({', '.join(stage.ranks)})", "\n".join(lines_of(stage)), stage.model)
        )
        for stage in report.stages
    )
    parts = [table("fits", rows), *(f"<p>{html.escape(note)}</p>" for note in report.notes)]
    if not report.ok and report.tail:
        parts.append(f"<h2>The last lines of the script</h2><pre>{html.escape(report.tail)}</pre>")
    return page(title, report.ok, verdict_of(report), _facts(install, script, report), parts)


def _facts(install: Install, script: Script, report: RehearsalReport) -> list[tuple[str, str]]:
    """What was rehearsed, and how."""
    return [
        ("script", shlex.join([script.name, *script.arguments])),
        ("neuralforecast", f"{install.version} in {install.site_packages}, {report.source} source"),
        ("torch", report.torch),
        ("Lightning", report.lightning),
        ("Python", report.python),
        ("processes", f"{report.world_size}, by {report.launcher}"),
        ("overrides", "; ".join(report.overrides) or "none"),
        ("seconds", f"{report.seconds:.1f}"),
    ]
