"""The findings of a command as one document, printed as text, JUnit XML and HTML; and the progress of a run."""

from __future__ import annotations

import html
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import click

# XML 1.0 does not allow these, even escaped; a process that crashed may have printed some.
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
.fits td { width: 7rem; } .fits td:first-child { width: 1.5rem; } .fits td.lines { width: auto; white-space: pre-line; }
.fits td:last-child { width: 4rem; text-align: right; padding-right: 0; }
details { margin-top: .3rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--faint); font-size: .85rem; }
.ok { color: var(--ok); } .no { color: var(--no); } td.no, td.ok { font-weight: bold; }
.verdict { border-left: .4rem solid; padding: .2rem 1rem; margin-bottom: 1.5rem; }
ins { color: var(--ok); text-decoration: none; } del { color: var(--no); text-decoration: none; }
@media (prefers-color-scheme: dark) { :root { --ok: #3fb950; --no: #f85149; } }
@media (max-width: 45rem) {
  .fits tr { display: flex; flex-wrap: wrap; }
  .fits td:nth-child(n) { width: auto; padding: .2rem .8rem .2rem 0; }
  .fits td.lines { order: 1; width: 100%; } .fits td:last-child { margin-left: auto; padding-right: 0; }
}
"""
WIDTH = 80
_COLOURS = {"ok": "green", "--": "yellow", "NO": "red"}


@dataclass(frozen=True)
class Item:
    """One fit, call or patch: the cells of its row, and the `lines` of its finding.

    `name` is that of the test case in JUnit XML. `detail` says why it is not `ok`, or is skipped.
    """

    ok: bool
    outcome: str
    name: str
    cells: tuple[str, ...]
    lines: tuple[str, ...]
    detail: str = ""
    seconds: float = 0.0
    is_skipped: bool = False

    @property
    def mark(self) -> str:
        """The first cell of its row."""
        return "--" if self.is_skipped else "ok" if self.ok else "NO"

    @property
    def problem(self) -> str:
        """Its element in JUnit XML; an item that did not complete is an error, not a failure. Empty if it is ok."""
        if self.is_skipped:
            return "skipped"
        if self.ok:
            return ""
        return "error" if self.outcome in ("error", "timeout") else "failure"


@dataclass(frozen=True)
class Section:
    """Items under a title; `folded` are summaries, each with a text that the page folds away."""

    title: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    folded: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """The result of a `command`: `facts` on what ran, sections, and the sentences of the `verdict`.

    `extra` is the title and text of a part that only the page has; lines in it that begin with "+" or "-" are coloured.
    """

    command: str
    title: str
    ok: bool
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    verdict: tuple[str, ...]
    notes: tuple[str, ...] = ()
    extra: tuple[str, str] = ("", "")
    seconds: float = 0.0


def print_sentence(text: str, margin: str = "") -> None:
    """Prints text in lines of 80 characters. Without a margin, a terminal breaks the lines itself."""
    if margin or not sys.stdout.isatty():
        wrapper = textwrap.TextWrapper(WIDTH, margin, margin, break_long_words=False, break_on_hyphens=False)
        text = wrapper.fill(text)
    click.echo(text)


def print_items(items: Sequence[Item], heading: Sequence[str] = ()) -> None:
    """Prints a row for each item, with its lines below; the heading, if any, has the titles of the columns."""
    rows = [item.cells for item in items]
    widths = [max(map(len, column)) for column in zip(*rows, *([heading] if heading else []))]

    def in_columns(cells: Sequence[str]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths))

    if heading:
        click.secho(f"{'':6}{in_columns(heading)}".rstrip(), bold=True)
    for item in items:
        mark = click.style(item.mark, fg=_COLOURS[item.mark], bold=not item.ok)
        click.echo(f"  {mark}  {in_columns(item.cells)}".rstrip())
        for line in "\n".join(item.lines).splitlines():
            print_sentence(line, " " * 6)


def write_files(document: Document, junit_xml: Path | None, page: Path | None) -> None:
    """Writes the document as JUnit XML and as a page, each if its path is given."""
    if junit_xml is not None:
        junit_xml.write_bytes(junit_of(document))
    if page is not None:
        page.write_text(page_of(document), encoding="utf-8")


def junit_of(document: Document) -> bytes:
    """JUnit XML of one test suite, with a test case for each item."""
    cases = [(section.title, item) for section in document.sections for item in section.items]
    problems = Counter(item.problem for _, item in cases)
    counts = {
        "tests": str(len(cases)),
        "failures": str(problems["failure"]),
        "errors": str(problems["error"]),
        "skipped": str(problems["skipped"]),
        "time": f"{document.seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": document.command, **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in document.facts:
        ElementTree.SubElement(properties, "property", {"name": name, "value": _printable(value)})
    for title, item in cases:
        attributes = {"classname": title, "name": item.name, "time": f"{item.seconds:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", attributes)
        finding = _printable("\n".join(item.lines))
        detail = _printable(item.detail)
        if item.problem == "skipped":
            ElementTree.SubElement(element, "skipped", {"message": detail})
        elif item.problem:
            message = (finding.splitlines() or [item.outcome])[0]
            ElementTree.SubElement(element, item.problem, {"message": message, "type": item.outcome}).text = detail
        ElementTree.SubElement(element, "system-out").text = finding
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml


def _printable(text: str) -> str:
    return _NOT_XML.sub("?", text)


def page_of(document: Document) -> str:
    """A self-contained HTML page: the verdict and the facts, the sections, and the extra part."""
    verdict = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in document.verdict)
    facts = (f"<th>{html.escape(name)}</th><td>{html.escape(value)}</td>" for name, value in document.facts)
    parts = [
        f"<h1>{html.escape(document.title)}</h1>",
        f'<div class="verdict {_class_of(document.ok)}">{verdict}</div>',
        _table("facts", facts),
        *(f"<p>{html.escape(note)}</p>" for note in document.notes),
    ]
    for section in document.sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", *(f"<p>{html.escape(note)}</p>" for note in section.notes)]
        parts.append(_table("fits", map(_row, section.items)))
        parts += [
            f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"
            for summary, text in section.folded
        ]
    title, text = document.extra
    if text:
        parts.append(f"<h2>{html.escape(title)}</h2><pre>{_marked(text)}</pre>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(document.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _table(kind: str, rows: Iterable[str]) -> str:
    return f'<table class="{kind}">\n' + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def _row(item: Item) -> str:
    mark = f'<td class="{_class_of(item.ok)}">{item.mark}</td>'
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in item.cells)
    lines = html.escape("\n".join(item.lines))
    seconds = f"{item.seconds:.1f} s" if item.seconds else ""
    return f'{mark}{cells}<td class="lines">{lines}</td><td>{seconds}</td>'


def _marked(text: str) -> str:
    tags = {"+": "ins", "-": "del"}
    return "".join(
        f"<{tags[line[0]]}>{html.escape(line)}</{tags[line[0]]}>" if line[0] in tags else html.escape(line)
        for line in text.splitlines(keepends=True)
    )


def _class_of(ok: bool) -> str:
    return "ok" if ok else "no"


class Progress:
    """A live line on standard error where that is a terminal, and lines that stay above it."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as LiveLine

        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
        self._live = LiveLine(*columns, TimeElapsedColumn(), console=self._errors, transient=True)
        self._task = self._live.add_task("preparing", total=total)
        self._beginning = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live.live.is_started:
            self._live.stop()

    def begin(self, line: str) -> None:
        """Shows that processes are starting; prints a line that stays, unless the last start had the same."""
        if line != self._beginning:
            self._errors.print(line, markup=False)
        self._beginning = line
        self.show("importing torch and Lightning")

    def mark(self, mark: str, words: str) -> None:
        """Prints a line that stays, with a mark in front: "ok", "--" or "NO"."""
        self._errors.print(f"  {mark}  ", style=_COLOURS[mark], end="")
        self._errors.print(words, markup=False)

    def show(self, words: str) -> None:
        """Sets the text of the live line, and shows the line."""
        self._live.start()
        self._live.update(self._task, description=words)

    def advance(self) -> None:
        """Counts one more of the total as done."""
        self._live.advance(self._task)
