"""Everything that nfpatch prints. The answer goes to standard output, progress and complaints to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

import click

from nfpatch.catalog import Catalog, Patch
from nfpatch.install import Install
from nfpatch.operations import Outcome
from nfpatch.plan import FileChange
from nfpatch.survey import Survey

if TYPE_CHECKING:
    from nfpatch.proof.prove import Agenda
    from nfpatch.proof.runner import CaseResult, ProofCase, ProofEvent, ProofReport

STATE_COLOURS = {
    "applied": "green",
    "applicable": "yellow",
    "not-needed": "bright_black",
    "modified": "red",
    "unknown-release": "red",
    "interrupted": "red",
}


def print_json(document: object) -> None:
    """The one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2))


def print_catalog(catalog: Catalog) -> None:
    """The answer of `list`."""
    for number, patch in enumerate(catalog.patches):
        if number:
            click.echo()
        click.secho(patch.id, bold=True)
        click.echo(f"  {patch.summary}")
        for label, value in (
            ("model", patch.model),
            ("file", patch.file),
            ("releases", releases_in_words(catalog, patch)),
            ("upstream", patch.upstream),
        ):
            click.echo(f"  {label:<9} {value}")


def catalog_to_json(catalog: Catalog) -> object:
    """The JSON document of `list`."""
    return {
        "patches": [
            {
                "id": patch.id,
                "summary": patch.summary,
                "model": patch.model,
                "file": patch.file,
                "releases": affected_releases(catalog, patch),
                "upstream": patch.upstream,
            }
            for patch in catalog.patches
        ]
    }


def affected_releases(catalog: Catalog, patch: Patch) -> list[str]:
    """The known releases that this patch has a variant for, oldest first."""
    return [release for release in catalog.releases if patch.codemod_for(release) is not None]


def releases_in_words(catalog: Catalog, patch: Patch) -> str:
    """The affected releases as a range, `1.2.0 - 1.7.5`; several ranges where there are gaps."""
    affected = set(affected_releases(catalog, patch))
    ranges: list[list[str]] = []
    gap = True
    for release in catalog.releases:
        if release in affected:
            if gap:
                ranges.append([release, release])
            ranges[-1][1] = release
        gap = release not in affected
    return ", ".join(first if first == last else f"{first} - {last}" for first, last in ranges) or "none known"


def state_to_json(found: Survey, changed: Sequence[str]) -> dict[str, object]:
    """The JSON document of `status`, `apply` and `revert`."""
    return {
        "neuralforecast": found.install.to_json(),
        "patches": [status.to_json() for status in found.statuses],
        "changed": list(changed),
    }


def print_status(found: Survey) -> None:
    """The answer of `status`."""
    _print_install(found.install)
    _print_states(found, found.catalog.patches)
    states = [status.state for status in found.statuses]
    if found.ledger_problem is not None:
        complain(found.ledger_problem)
    if "interrupted" in states:
        _say("A killed run left work half done. The next `nfpatch apply` or `nfpatch revert` heals it.")
    elif "applicable" in states:
        _say(f"{_count(states.count('applicable'), 'patch is', 'patches are')} needed. Run `nfpatch apply`.")
    elif "modified" in states or "unknown-release" in states:
        _say("nfpatch cannot tell by itself whether this install is healthy. Try `nfpatch apply --dry-run`.")
    else:
        applied = states.count("applied")
        _say("Healed: it has every patch that it needs." if applied else "Nothing to do: it needs no patch.")


def print_outcome(outcome: Outcome, patches: Sequence[Patch], verb: str) -> None:
    """The answer of `apply` and `revert`: the state of the patches in question, and what changed."""
    _print_install(outcome.found.install)
    _print_states(outcome.found, patches)
    if outcome.recovered:
        _say("The work that a killed run left half done was brought to its end first.")
    if not outcome.changes:
        _say(f"Nothing to {verb}.")
        return
    for change in outcome.changes:
        click.echo(f"  changed  {outcome.found.install.file(change.file)}")
    for saved in outcome.saved:
        click.echo(f"  saved    {saved} (what stood there, with the edits that were made after nfpatch)")
    if verb == "apply":
        patched = _count(len(outcome.changes), "file", "files")
        _say(f"{patched} patched. `nfpatch verify` proves it, `nfpatch revert` takes it back.")
    else:
        _say(f"{_count(len(outcome.changes), 'file', 'files')} restored.")


def print_diff(changes: Iterable[FileChange]) -> None:
    """The changes as a unified diff that `patch -p1` takes."""
    for line in diff_lines(changes):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(line, fg=colour, nl=False)


def diff_lines(changes: Iterable[FileChange]) -> list[str]:
    """The lines of the unified diff, each with its ending."""
    import difflib

    lines: list[str] = []
    for change in changes:
        before, after = (
            text.decode("utf-8", "replace").splitlines(keepends=True) for text in (change.now or b"", change.then)
        )
        for line in difflib.unified_diff(before, after, f"a/{change.file}", f"b/{change.file}"):
            lines.append(line if line.endswith(("\n", "\r")) else line + "\n\\ No newline at end of file\n")
    return lines


@contextmanager
def proof_progress(agenda: Agenda) -> Iterator[Callable[[ProofEvent], None]]:
    """What `verify` shows on standard error while it runs: each result as it comes, and on a terminal a live line."""
    if not agenda.cases:
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=errors, transient=True) as progress:
        task = progress.add_task("preparing", total=len(agenda.cases))

        def show(event: ProofEvent) -> None:
            if event.kind == "launched":
                errors.print(f"Training {len(agenda.cases)} models, each a few steps, in one launch ...")
                progress.update(task, description="importing torch and Lightning")
            elif event.kind == "started" and event.case is not None:
                progress.update(task, description=_title(event.case))
            elif event.result is not None and event.case is not None:
                progress.advance(task)
                mark, colour = ("ok", "green") if event.result.ok else ("NO", "red")
                words = f"{_title(event.case)}: {event.result.outcome}, {event.result.seconds:.1f} s"
                errors.print(f"  [{colour}]{mark}[/{colour}]  {words}")

        yield show


def print_proof(install: Install, agenda: Agenda, report: ProofReport) -> None:
    """The answer of `verify`: a row a fit, and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    _print_install(install)
    for status in agenda.unproved:
        click.echo(f"  {status.patch.id}: {status.state}, {status.reason}")
    if not report.cases:
        _say("Nothing to prove.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "model", "source", "strict DDP"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("", "source"))
    for result in report.cases:
        mark = Text("ok", "green") if result.ok else Text("NO", "bold red")
        model = result.model if result.patch is None else f"{result.model}, {result.config}"
        role = " (control)" if result.patch is None else ""
        table.add_row(mark, model + role, result.source, Text(_finding(result)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 80).print(table)
    stack = f"torch {report.torch}, Lightning {report.lightning}, Python {report.python}"
    _say(f"World size {report.world_size}, backend {report.backend}, {report.seconds:.1f} s in all; {stack}.")
    if report.ok:
        _say("Proved: every fit came out as it must.")
        return
    _say(f"NOT proved: {_count(sum(not r.ok for r in report.cases), 'fit', 'fits')} did not come out as it must.")
    if any(not r.ok and r.source == "installed" and r.outcome == "unused-parameters" for r in report.cases):
        _say("The installed source is not healed. Run `nfpatch apply`, then `nfpatch verify` again.")


def _title(case: ProofCase) -> str:
    return f"{case.case.model}, {case.case.config}, {case.source} source"


def _finding(result: CaseResult) -> str:
    """What a fit showed, in a few words."""
    if result.outcome == "unused-parameters":
        names = _shortened(result.unused_parameters)
        number = _count(len(result.unused_parameters), "parameter", "parameters")
        words = f"refused: {number} without a gradient ({names})"
        return words if result.ok else f"{words}. {'' if result.expect == 'pass' else result.detail}".rstrip(". ")
    if result.outcome == "pass":
        words = f"trains: {result.steps} steps, {result.parameters} parameters, equal weights on all ranks"
        return words if result.ok else f"{words}. {result.detail}"
    return f"{result.outcome}: {result.detail}"


def _shortened(names: Sequence[str]) -> str:
    """Up to three names as they are; more by what they have in common."""
    if len(names) <= 3:
        return ", ".join(names)
    common = os.path.commonprefix(list(names))  # noqa: RUF071 - of names, not of paths
    return f"{common}*" if common else f"{names[0]}, ..."


def complain(text: str) -> None:
    """An error, as one paragraph on standard error."""
    click.secho(f"nfpatch: {text}", fg="red", err=True)


def print_traceback() -> None:
    """Where the error that is being handled comes from."""
    import traceback

    click.echo(traceback.format_exc(), err=True)


def _print_install(install: Install) -> None:
    kind = "" if install.kind == "regular" else f" ({install.kind}: {install.package})"
    click.echo(f"neuralforecast {install.version} in {install.site_packages}{kind}")


def _print_states(found: Survey, patches: Sequence[Patch]) -> None:
    statuses = [found.status_of(patch) for patch in patches]
    id_width = max((len(status.patch.id) for status in statuses), default=0)
    state_width = max((len(status.state) for status in statuses), default=0)
    for status in statuses:
        state = click.style(status.state.ljust(state_width), fg=STATE_COLOURS[status.state])
        click.echo(f"  {status.patch.id.ljust(id_width)}  {state}  {status.reason}")


def _say(sentence: str) -> None:
    click.echo(sentence)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"
