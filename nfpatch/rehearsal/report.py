"""The reports of `rehearse`: progress on standard error, and the calls, rank by rank, on standard output."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable

import click

from nfpatch.console import pluralize, print_install
from nfpatch.engine.facts import in_file
from nfpatch.engine.report import Document, Item, Section, print_items, print_sentence
from nfpatch.installs.find import Install
from nfpatch.rehearsal.run import RehearsalReport, Script
from nfpatch.rehearsal.verdict import Stage
from nfpatch.target.events import CallRaised, CallReturned, CallStarted, Entry, ProcessStarted

_LAUNCHERS = {"script": "Lightning's launcher", "torchrun": "torch's launcher"}
_PAGE = "docs/how-to/rehearse.md"


@contextmanager
def progress(script: Script, devices: int) -> Iterator[Callable[[Entry], None]]:
    """Shows on standard error that the script runs, and on a terminal the call of the first rank."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    command = shlex.join([script.name, *script.arguments])
    with errors.status("starting") as live:

        def show(entry: Entry) -> None:
            event = entry.event
            if entry.rank != 0:
                return
            if isinstance(event, ProcessStarted) and not event.within:
                errors.print(f"Running {command} on {devices} processes ...", markup=False)
            elif isinstance(event, CallStarted):
                live.update(f"{event.name} in {in_file(event.file, event.line)}")
            elif isinstance(event, (CallReturned, CallRaised)):
                live.update("running")

        yield show


def print_report(install: Install, script: Script, report: RehearsalReport) -> None:
    """Prints what was overridden, the calls by rank with findings and fixes, and the verdict."""
    print_install(install)
    by = _LAUNCHERS[report.launcher]
    print_sentence(
        f"{script.name} in {report.world_size} CPU processes, started by {by}, with the {report.source} source; "
        f"{report.stack}; {report.seconds:.1f} s."
    )
    if report.overrides:
        print_sentence(f"Changed for the rehearsal: {'; '.join(report.overrides)}.")
    click.echo()
    items = [_item_of(stage) for stage in report.stages]
    if items:
        _print_table(items)
    for note in report.notes:
        print_sentence(f"Note: {note}")
    if report.tail and not report.ok and all(stage.outcome in ("pass", "timeout") for stage in report.stages):
        click.echo("The last lines of the script:")
        click.echo(textwrap.indent(report.tail, "  | "))
    for sentence in verdict_of(report):
        print_sentence(sentence)


def _print_table(items: Sequence[Item]) -> None:
    """Prints a row for each call, with its findings below; each note is printed once."""
    width = max(12, *(len(cell) for item in items for cell in item.cells[2:-1]))
    ranks = [f"rank {number}".ljust(width) for number in range(len(items[0].cells) - 3)]
    shown: set[str] = set()
    without_repeats = []
    for item in items:
        without_repeats.append(replace(item, lines=tuple(line for line in item.lines if line not in shown)))
        shown.update(item.lines)
    print_items(without_repeats, ("where", "call", *ranks, "model"))
    click.echo()


def _item_of(stage: Stage) -> Item:
    return Item(
        ok=stage.ok,
        outcome=stage.outcome,
        name=f"{stage.place} {stage.call}",
        cells=(stage.place, stage.call, *stage.states, stage.model),
        lines=tuple(lines_of(stage)),
        detail=stage.detail,
    )


def document_of(install: Install, script: Script, report: RehearsalReport) -> Document:
    """The rehearsal as a document: an item for each call, and one for the end of the script."""
    items = [_item_of(stage) for stage in report.stages]
    blank = [""] * (len(items[0].cells) - 1) if items else []
    end = Item(
        ok=report.exit_code == 0,
        outcome="error",
        name="the script",
        cells=("the script", *blank),
        lines=tuple(verdict_of(report)),
        detail=report.tail,
        seconds=report.seconds,
    )
    return Document(
        command="nfpatch rehearse",
        title=f"{script.name}: {'rehearsed' if report.ok else 'mismatch'}",
        ok=report.ok,
        facts=(
            ("script", shlex.join([script.name, *script.arguments])),
            ("neuralforecast", f"{install.version} in {install.site_packages}, {report.source} source"),
            *report.stack.versions.items(),
            ("processes", f"{report.world_size}, by {report.launcher}"),
            ("overrides", "; ".join(report.overrides) or "none"),
            ("seconds", f"{report.seconds:.1f}"),
        ),
        sections=(Section(script.name, (*items, end)),),
        verdict=tuple(verdict_of(report)),
        notes=report.notes,
        extra=("The last lines of the script", "" if report.ok else report.tail),
        seconds=report.seconds,
    )


def lines_of(stage: Stage) -> list[str]:
    """The finding of a call, its fix, and the notes."""
    lines = [] if stage.ok else [f"{stage.outcome}: {stage.detail}"]
    if stage.why:
        lines.append(f"why it matters: {stage.why}")
    if stage.patches:
        lines.append(f"fixed by: nfpatch apply {' '.join(stage.patches)}")
    if stage.remedy:
        lines += [f"what to do: {stage.remedy[0]}", *stage.remedy[1:]]
    if stage.observed:
        lines.append(f"No patch in the catalog fixes this; {_PAGE} says how to proceed. Details for an issue:")
        lines += [f"    {line}" for line in (f"{stage.call} of {stage.model}", *stage.observed)]
    return [*lines, *(f"note: {note}" for note in stage.notes)]


def verdict_of(report: RehearsalReport) -> list[str]:
    """The sentences at the end."""
    calls = pluralize(len(report.stages), "call", "calls")
    if report.ok:
        trainings = [training for stage in report.stages for rank in stage.ranks for training in rank["trainings"]]
        if max((training["world_size"] or 0 for training in trainings), default=0) == 1:
            return [f"Rehearsed: {calls} of a script for one device."]
        match = pluralize(len(report.stages), "call matches", "calls match")
        return [f"Rehearsed in {report.world_size} processes: {match} the single-process reference."]
    wrong = [stage for stage in report.stages if not stage.ok]
    sentences = []
    if not report.stages:
        sentences.append("NOT rehearsed: nfpatch recorded no call of neuralforecast.")
    elif wrong and all(stage.refused_alone for stage in wrong):
        sentences.append(f"NOT rehearsed completely: {len(wrong)} of {calls} fail in a single process too.")
    elif wrong:
        sentences.append(f"Mismatch or error in {len(wrong)} of {calls}.")
    if report.ended:
        sentences.append(
            f"The script was {report.ended}."
            if report.ended.startswith("ended")
            else f"The script was ended: {report.ended}."
        )
    elif report.exit_code != 0:
        sentences.append(f"The script ended with exit code {report.exit_code}.")
    if report.patches and report.source == "installed":
        sentences.append(
            f"`nfpatch apply {' '.join(report.patches)}` fixes the known problems; to test that first, run "
            "`nfpatch rehearse --source patched`."
        )
    return sentences
