"""What `audit` prints: its progress on standard error; on standard output a row for each model, and the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Callable

import click

from nfpatch.audit.run import PROCESSES, STEPS, AuditAgenda, AuditReport, Cell, CellOutcome, TrainingCheck, outcome_of
from nfpatch.console import pluralize, print_install
from nfpatch.engine.facts import listed
from nfpatch.engine.report import Progress, print_sentence
from nfpatch.installs.find import Install
from nfpatch.proof.runner import ProofEvent


@contextmanager
def progress(agenda: AuditAgenda) -> Iterator[Callable[[ProofEvent], None]]:
    """Shows progress on standard error: a bar on a terminal, and each model when its last cell is finished."""
    left = Counter(cell.model for cell in agenda.cells)
    outcomes: Counter[tuple[str, CellOutcome]] = Counter()
    with Progress(len(agenda.cells)) as shown:

        def show(event: ProofEvent) -> None:
            if event.kind == "launched":
                shown.begin(f"Training {pluralize(sum(left.values()), 'cell', 'cells')}, each {STEPS} steps ...")
            elif event.kind == "started" and event.case is not None:
                shown.show(f"{event.case.case.model}, {event.case.case.config}")
            elif event.result is not None:
                model = event.result.model
                shown.advance()
                left[model] -= 1
                outcomes[model, outcome_of(event.result)] += 1
                if not left[model]:
                    unused, clean = outcomes[model, "unused"], outcomes[model, "clean"]
                    if unused:
                        shown.mark("NO", f"{model}, {unused} with unused parameters")
                    else:
                        shown.mark(*("ok", model) if clean else ("--", f"{model}, not audited"))

        yield show


def print_report(install: Install, report: AuditReport) -> None:
    """Prints the table of models, the unused parameters, the failed cells, and the verdict."""
    print_install(install)
    models = {name: list(cells) for name, cells in groupby(report.cells, key=lambda cell: cell.case.model)}
    click.secho(f"\n  {'model':<20} {'cells':>6} {'clean':>6} {'unused':>6} {'refused':>8} {'failed':>7}", bold=True)
    for name, cells in models.items():
        outcomes = _outcomes(cells)
        numbers = (len(cells), outcomes["clean"], outcomes["unused"], outcomes["refused"], outcomes["error"])
        # dots for zeros, so that the other numbers stand out
        words = [f"{number or '.':>{width}}" for number, width in zip(numbers, (6, 6, 6, 8, 7))]
        if outcomes["unused"]:
            words[2] = click.style(words[2], fg="red", bold=True)
        click.echo(f"  {name:<20} {' '.join(words)}")
    _print_unused(report.cells)
    _print_failed(report.cells)
    click.echo()
    for sentence in sentences_of(report):
        print_sentence(sentence)


def _outcomes(cells: Sequence[Cell]) -> Counter[str]:
    return Counter("refused" if cell.refused else cell.outcome for cell in cells)


def _print_unused(cells: Sequence[Cell]) -> None:
    """Prints the unused parameters. Those that are unused in the same cells, or models, share an entry."""
    models: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}
    for name, own in groupby(cells, key=lambda cell: cell.case.model):
        for parameters, configs in _unused_together(own):
            models.setdefault(parameters, {})[name] = configs
    for parameters, where in models.items():
        names = next(iter(where)) if len(where) == 1 else f"{len(where)} models"
        click.secho(f"\n{names}: {pluralize(len(parameters), 'unused parameter', 'unused parameters')}", bold=True)
        print_sentence(listed(parameters), "  ")
        print_sentence(f"in {listed(next(iter(where.values())), '; ')}", "    ")
        if len(where) > 1:
            print_sentence(f"of {', '.join(where)}", "    ")


def _unused_together(cells: Iterable[Cell]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The unused parameters of a model, grouped by the configurations in which they are unused."""
    configs: dict[str, list[str]] = {}
    for cell in cells:
        for parameter in cell.unused_parameters if cell.outcome == "unused" else ():
            configs.setdefault(parameter, []).append(cell.case.config)
    groups: dict[tuple[str, ...], list[str]] = {}
    for parameter in sorted(configs):
        groups.setdefault(tuple(configs[parameter]), []).append(parameter)
    return ((tuple(parameters), where) for where, parameters in groups.items())


def _print_failed(cells: Sequence[Cell]) -> None:
    """Prints the cells that failed; those with the same reason share an entry."""
    configs: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.outcome == "error" and not cell.refused:
            configs.setdefault((cell.case.model, cell.reason), []).append(cell.case.config)
    if configs:
        click.secho("\nUnknown, because the fit failed", bold=True)
    for (name, reason), where in configs.items():
        print_sentence(f"{name}, {listed(where, '; ')}: {reason}", "  ")


def sentences_of(report: AuditReport) -> list[str]:
    """The sentences at the end."""
    how = f"by strict DDP in {PROCESSES} processes" if report.ddp else "in one process"
    cells = pluralize(len(report.cells), "cell", "cells")
    sentences = [f"{cells}, each trained {STEPS} steps {how}, {report.seconds:.0f} s in total; {report.stack}."]
    outcomes = _outcomes(report.cells)
    if outcomes["refused"]:
        number = pluralize(outcomes["refused"], "cell is", "cells are")
        sentences.append(f"{number} refused by neuralforecast itself: it raises an error for this configuration.")
    sentences += [f"NOT audited: {name}: {reason}" for name, reason in report.not_audited.items()]
    if report.unknown_options:
        names = ", ".join(report.unknown_options)
        sentences.append(f"Options that nfpatch does not know, tried with the values that the source names: {names}.")
    sentences += _sentences_of_training(report.training)
    unfinished = sum(not cell.is_finished for cell in report.cells)
    if unfinished:
        number = pluralize(unfinished, "cell was", "cells were")
        sentences.append(f"The audit is NOT complete: {number} not reached or not finished.")
    unused = {cell.case.model for cell in report.cells if cell.outcome == "unused"}
    if unused:
        number = pluralize(outcomes["unused"], "cell has", "cells have")
        sentences.append(
            f"{number} unused parameters, of {pluralize(len(unused), 'model', 'models')}: {', '.join(sorted(unused))}."
        )
    else:
        sentences.append(f"No unused parameters in the {pluralize(outcomes['clean'], 'cell', 'cells')} that trained.")
    return sentences


def _sentences_of_training(check: TrainingCheck) -> list[str]:
    """Which options count as training options, and the models for which that was not confirmed."""
    if not check.options:
        return []
    changed = ", ".join(f"{name}={value!r}" for name, value in check.options.items())
    how = f"Training options, varied together in one cell of each model: {changed}."
    if check.alike:
        number = pluralize(len(check.alike), "model", "models")
        how += f" The unused parameters stayed the same in {number}."
    sentences = [how]
    if check.unlike:
        sentences.append(f"They did NOT stay the same in {', '.join(check.unlike)}.")
    if check.not_known:
        sentences.append(f"Unknown for {', '.join(check.not_known)}: a fit failed.")
    return sentences
