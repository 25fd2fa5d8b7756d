"""What `verify` prints: its progress on standard error, and the proof, group by group, on standard output."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Callable

import click

from nfpatch.console import count, print_install
from nfpatch.installs.find import Install
from nfpatch.proof.prove import Agenda
from nfpatch.proof.runner import CaseResult, ProofCase, ProofEvent, ProofReport
from nfpatch.proof.verdict import Launcher

STRATEGIES = {"strict-ddp": "strict DDP", "find-unused-ddp": "find-unused DDP", "single-process": "one process"}
WIDTH = 80


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

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live.live.is_started:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self._errors.print(line, markup=False)

    def mark(self, mark: str, words: str) -> None:
        """Prints a line that stays, with a mark in front: "ok", "NO" or another."""
        self._errors.print(f"  {mark}  ", style={"ok": "green", "NO": "red"}.get(mark), end="")
        self._errors.print(words, markup=False)

    def show(self, words: str) -> None:
        """What the live line tells from now on; the first time, it appears."""
        self._live.start()
        self._live.update(self._task, description=words)

    def advance(self) -> None:
        """One more of the total is done."""
        self._live.advance(self._task)


@contextmanager
def progress(agenda: Agenda) -> Iterator[Callable[[ProofEvent], None]]:
    """What `verify` shows on standard error while it runs: each result as it comes, and on a terminal a live line."""
    if not agenda.cases:
        yield lambda event: None
        return
    launches = len({case.launcher for case in agenda.cases})
    how = "in one launch" if launches == 1 else f"in {launches} launches"
    with Progress(len(agenda.cases)) as shown:
        beginning = [f"Training {count(len(agenda.cases), 'case', 'cases')}, each a few steps, {how} ..."]

        def show(event: ProofEvent) -> None:
            if event.kind == "launched":  # so the interpreter has what it takes
                while beginning:
                    shown.say(beginning.pop())
                shown.show("importing torch and Lightning")
            elif event.kind == "started" and event.case is not None:
                shown.show(_title(event.case))
            elif event.result is not None and event.case is not None:
                shown.advance()
                words = f"{_title(event.case)}: {event.result.outcome}, {event.result.seconds:.1f} s"
                shown.mark("ok" if event.result.ok else "NO", words)

        yield show


def _title(case: ProofCase) -> str:
    what = STRATEGIES[case.strategy] if case.case.stage == "fit" else case.case.stage
    return f"{case.case.model}, {case.case.config}, {case.source} source, {what}{_by(case.launcher)}"


def _by(launcher: Launcher) -> str:
    """What tells the launcher in a title, where it is not the one that is used unless another is asked for."""
    return "" if launcher == "torchrun" else f", by {launcher}"


def coverage_in_words(report: ProofReport) -> list[str]:
    """A line for each patch in question that the proof does not show, with the reason."""
    coverage = report.coverage
    return [
        *(f"not needed: {patch_id} ({reason})" for patch_id, reason in coverage.not_needed.items()),
        *(f"skipped: {patch_id} ({reason})" for patch_id, reason in coverage.skipped.items()),
        *(f"not proved: {patch.id} ({patch.reason})" for patch in coverage.unproved),
    ]


def required_in_words(results: Sequence[CaseResult]) -> str:
    """Which sources of these fits carry patches that the configuration requires; empty where none does."""
    sources: dict[tuple[str, ...], dict[str, None]] = {}
    for result in results:
        if result.requires:
            sources.setdefault(result.requires, {})[result.source] = None
    return "; ".join(f"{' and '.join(names)} with {', '.join(ids)}" for ids, names in sources.items())


def print_report(install: Install, agenda: Agenda, report: ProofReport) -> None:
    """The answer of `verify`: the fits of each configuration, what is not proved, and the verdict."""
    print_install(install)
    told: set[str] = set()
    for title, results in groups(report):
        click.secho(f"\n{title}", bold=True)
        required = required_in_words(results)
        if required:
            click.echo(textwrap.fill(f"(for this configuration: {required})", WIDTH, initial_indent="  "))
        for result in results:
            _print_fit(result, finding_of(result) if result.detail not in told else f"{result.outcome}: as above")
            told |= {result.detail} - {""}
    click.echo()
    for line in coverage_in_words(report):
        click.echo(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    if report.cases:
        click.echo(textwrap.fill(conditions_of(report), WIDTH))
    for sentence in verdict_of(report):
        click.echo(textwrap.fill(sentence, WIDTH, break_on_hyphens=False))


def groups(report: ProofReport) -> list[tuple[str, list[CaseResult]]]:
    """The results of each configuration under its title."""
    return [(title, list(results)) for title, results in groupby(report.cases, key=_group_of)]


def is_control(result: CaseResult) -> bool:
    """Whether it is a fit that no patch is needed for, nor a journey."""
    return result.patch is None and result.stage == "fit"


def _group_of(result: CaseResult) -> str:
    what = f"{result.model} (control)" if is_control(result) else f"{result.model}, {result.config}"
    return what + _by(result.launcher)


def _print_fit(result: CaseResult, finding: str) -> None:
    """One fit in as many lines as it takes; paths and other long words are not broken."""
    what = STRATEGIES[result.strategy] if result.stage == "fit" else result.stage
    place = f"  {result.source:<9}  {what:<16}  "
    margin = " " * (len("  ok") + len(place))
    width = (shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH) - len(margin)
    wrap = textwrap.TextWrapper(max(width, 30), break_long_words=False, break_on_hyphens=False).wrap
    lines = [line for part in finding.splitlines() for line in wrap(part)]
    mark, colour = ("ok", "green") if result.ok else ("NO", "red")
    click.echo(f"  {click.style(mark, fg=colour, bold=not result.ok)}{place}{lines[0]}")
    for line in lines[1:]:
        click.echo(margin + line)


def finding_of(result: CaseResult) -> str:
    """What a fit showed, in a few words."""
    if result.outcome == "unused-parameters":
        refused = "refused: " if result.strategy == "strict-ddp" else ""
        words = f"{refused}{_without_gradient(result)}"
        return words if result.ok else f"{words}. {'' if result.expect == 'pass' else result.detail}".rstrip(". ")
    if result.outcome == "pass":
        words = _success_of(result)
        return words if result.ok else f"{words}. {result.detail}"
    return f"{'one process refuses it too' if result.refused_alone else result.outcome}: {result.detail}"


def _success_of(result: CaseResult) -> str:
    """What a fit that went through showed."""
    if result.stage != "fit":
        return "says what to set, on every rank" if result.stage == "no-batch" else "as in one process, on every rank"
    if result.unused_parameters:
        return f"trains; {_without_gradient(result)}"
    if result.strategy == "single-process" and result.equal_to_like:
        return "trains; weights and forecasts bit for bit those of the original"
    words = f"trains: {result.steps} steps, {result.parameters:,} parameters"
    if result.strategy != "single-process":
        words += ", equal weights on all ranks"
    if result.equal_to_like:
        how = " with find_unused_parameters=True" if str(result.like).endswith("find-unused-ddp") else ""
        words += f", bit for bit those of the original{how}"
    return words


def _without_gradient(result: CaseResult) -> str:
    number = count(len(result.unused_parameters), "parameter", "parameters")
    return f"{number} without a gradient ({_shortened(result.unused_parameters)})"


def _shortened(names: Sequence[str]) -> str:
    """Up to three names as they are; more by what they have in common."""
    if len(names) <= 3:
        return ", ".join(names)
    common = os.path.commonprefix(list(names))  # noqa: RUF071 - of names, not of paths
    return f"{common}*" if common else f"{names[0]}, ..."


def conditions_of(report: ProofReport) -> str:
    """The sentence on what the fits ran with."""
    processes = "No fit was distributed" if report.world_size is None else f"World size {report.world_size}"
    if report.nodes > 1 and report.world_size is not None:
        processes += f" on {report.nodes} nodes"
    backend = "" if report.backend is None else f", backend {report.backend}"
    if report.accelerator == "gpu" and report.backend == "gloo":
        backend += ", because processes share a GPU, which nccl does not allow"
    stack = f"torch {report.torch}, Lightning {report.lightning}, Python {report.python}"
    return f"{processes}{backend}; {stack}; {report.seconds:.1f} s in all."


def verdict_of(report: ProofReport) -> list[str]:
    """The sentences at the end; the last says how many patches were proved."""
    coverage = report.coverage
    sentences = []
    failed = sum(not result.ok for result in report.cases)
    if failed:
        sentences.append(f"NOT proved: {count(failed, 'fit', 'fits')} did not come out as it must.")
    if any(not result.ok for result in report.cases if is_control(result)):
        sentences.append("The control failed as well: look at this machine and its environment before the patches.")
    if any(not r.ok and r.source == "installed" and r.outcome == "unused-parameters" for r in report.cases):
        sentences.append("The installed source is not patched. Run `nfpatch apply`, then `nfpatch verify` again.")
    if coverage.missing:
        sentences.append(f"NOT proved: {', '.join(coverage.missing)}.")
    elif coverage.unproved and not report.proved:
        sentences.append(
            "NOT proved: no patch was. `nfpatch verify --preview` proves what `nfpatch apply` would write."
        )
    if report.ok:
        sentences.append("Proved: every fit came out as it must." if report.cases else "Nothing to prove.")
    return [*sentences, f"{len(report.proved)} of {count(len(report.patches), 'patch', 'patches')} proved."]
