"""What `rehearse` prints: its progress on standard error, and the calls, rank by rank, on standard output."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import click

from nfpatch.console import count, print_install
from nfpatch.installs.find import Install
from nfpatch.proof.report import WIDTH
from nfpatch.rehearsal.run import RehearsalReport, Script
from nfpatch.rehearsal.verdict import Stage
from nfpatch.target.events import CallRaised, CallReturned, CallStarted, Entry

_LAUNCHERS = {"script": "Lightning's launcher", "torchrun": "torch's launcher"}
_PAGE = "docs/rehearse.md"


@contextmanager
def progress(script: Script, devices: int) -> Iterator[Callable[[Entry], None]]:
    """What is shown while the script runs: each call of the first rank, and on a terminal a live line."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    errors.print(f"Running {shlex.join([script.name, *script.arguments])} on {devices} processes ...", markup=False)
    with errors.status("starting") as live:

        def show(entry: Entry) -> None:
            event = entry.event
            if entry.rank != 0:
                return
            if isinstance(event, CallStarted):
                live.update(f"{event.name} in {event.file.rpartition('/')[2]}:{event.line}")
            elif isinstance(event, (CallReturned, CallRaised)):
                live.update("going on")

        yield show


def print_report(install: Install, script: Script, report: RehearsalReport) -> None:
    """The answer: what was changed, the table of calls by rank, what is wrong and what heals it, the verdict last."""
    print_install(install)
    by = _LAUNCHERS[report.launcher]
    _say(
        f"{script.name} on {report.world_size} processes of the CPU, by {by}, with the {report.source} source; "
        f"torch {report.torch}, Lightning {report.lightning}, Python {report.python}; {report.seconds:.1f} s."
    )
    if report.overrides:
        _say(f"Changed for the rehearsal: {'; '.join(report.overrides)}.")
    click.echo()
    _print_table(report)
    for note in report.notes:
        _say(f"Note: {note}")
    if report.tail and not report.ok and all(stage.outcome in ("pass", "timeout") for stage in report.stages):
        click.echo("The last lines of the script:")
        click.echo(textwrap.indent(report.tail, "  | "))
    for sentence in verdict_of(report):
        _say(sentence)


def _print_table(report: RehearsalReport) -> None:
    """A line a call, and below it what is wrong with it."""
    if not report.stages:
        return
    ranks = max(len(stage.ranks) for stage in report.stages)
    place = max(len(stage.place) for stage in report.stages)
    name = max(len(stage.call) for stage in report.stages)
    cell = max(12, *(len(word) for stage in report.stages for word in stage.ranks))
    heading = "  ".join([f"{'':4}", f"{'where':<{place}}", f"{'call':<{name}}"])
    click.secho("  ".join([heading, *(f"{f'rank {number}':<{cell}}" for number in range(ranks)), "model"]), bold=True)
    told: set[str] = set()
    for stage in report.stages:
        mark, colour = ("ok", "green") if stage.ok else ("NO", "red")
        row = "  ".join([f"{stage.place:<{place}}", f"{stage.call:<{name}}", *(f"{w:<{cell}}" for w in stage.ranks)])
        click.echo(f"  {click.style(mark, fg=colour, bold=not stage.ok)}  {row}  {stage.model}".rstrip())
        for line in (line for line in lines_of(stage) if line not in told):
            click.echo(textwrap.fill(line, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, **_WHOLE))
        told.update(stage.notes)
    click.echo()


def lines_of(stage: Stage) -> list[str]:
    """What is wrong with a call and what heals it, and what is worth knowing of it."""
    lines = [] if stage.ok else [f"{stage.outcome}: {stage.detail}"]
    if stage.patches:
        lines.append(f"healed by: nfpatch apply {' '.join(stage.patches)}")
    elif stage.is_sought:
        lines.append(f"No patch of the catalog is known for it; {_PAGE} tells how to go on.")
    return [*lines, *stage.notes]


_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def _say(sentence: str) -> None:
    click.echo(textwrap.fill(sentence, WIDTH, **_WHOLE) if not sys.stdout.isatty() else sentence)


def verdict_of(report: RehearsalReport) -> list[str]:
    """The sentences at the end."""
    if report.ok:
        calls = count(len(report.stages), "call gives", "calls give")
        return [f"Rehearsed: {calls} on {report.world_size} processes what one process gives."]
    wrong = [stage for stage in report.stages if not stage.ok]
    sentences = []
    if not report.stages:
        sentences.append("NOT rehearsed: the script has made no call of neuralforecast that nfpatch has seen.")
    elif wrong:
        sentences.append(f"NOT as in one process: {len(wrong)} of {count(len(report.stages), 'call', 'calls')}.")
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
            f"`nfpatch apply {' '.join(report.patches)}` fixes what is known; `nfpatch rehearse --source patched` "
            "shows first what that comes to."
        )
    return sentences
