"""What `verify` prints: its progress on standard error, and the proof on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Callable, Optional

import click

from nfpatch.console import pluralize, print_install, unified_diff
from nfpatch.engine.facts import listed
from nfpatch.engine.report import Document, Item, Progress, Section, print_items, print_sentence
from nfpatch.installs.find import Install
from nfpatch.proof.prove import Agenda
from nfpatch.proof.runner import ProofEvent, ProofReport
from nfpatch.proof.verdict import CaseResult, Launcher, ProofCase

STRATEGIES = {"strict-ddp": "strict DDP", "find-unused-ddp": "find-unused DDP", "single-process": "single process"}
# The title of the section of patches that no fit shows
UNPROVED = "Not proved"


@contextmanager
def progress(agenda: Agenda, verbose: bool = False) -> Iterator[Callable[[ProofEvent], None]]:
    """Shows progress on standard error: a bar on a terminal, and each failed fit, or if `verbose` every fit."""
    launches = len({case.launcher for case in agenda.cases})
    how = "in one launch" if launches == 1 else f"in {launches} launches"
    with Progress(len(agenda.cases)) as shown:

        def show(event: ProofEvent) -> None:
            if event.kind == "launched":
                shown.begin(f"Training {pluralize(len(agenda.cases), 'case', 'cases')}, each a few steps, {how} ...")
            elif event.kind == "started" and event.case is not None:
                shown.show(_title(event.case))
            elif event.result is not None and event.case is not None:
                shown.advance()
                if verbose or not event.result.ok:
                    words = f"{_title(event.case)}: {event.result.outcome}, {event.result.seconds:.1f} s"
                    shown.mark("ok" if event.result.ok else "NO", words)

        yield show


def _title(case: ProofCase) -> str:
    what = STRATEGIES[case.strategy] if case.case.stage == "fit" else case.case.stage
    return f"{case.case.model}, {case.case.config}, {case.source} source, {what}{_by(case.launcher)}"


def _by(launcher: Launcher) -> str:
    return "" if launcher == "torchrun" else f", by {launcher}"


def coverage_in_words(report: ProofReport) -> list[str]:
    """A line for each patch that the proof does not cover, with the reason."""
    coverage = report.coverage
    groups = {"not needed": coverage.not_needed, "skipped": coverage.skipped, "not proved": coverage.unproved}
    return [f"{what}: {name} ({reason})" for what, patches in groups.items() for name, reason in patches.items()]


def required_in_words(results: Sequence[CaseResult]) -> str:
    """Which sources of these fits have patches that the configuration requires; empty if none has."""
    sources: dict[tuple[str, ...], dict[str, None]] = {}
    for result in results:
        if result.requires:
            sources.setdefault(result.requires, {})[result.source] = None
    return "; ".join(f"{' and '.join(names)} with {', '.join(ids)}" for ids, names in sources.items())


def print_report(install: Install, report: ProofReport, verbose: bool = False) -> None:
    """Prints a row for each patch, the fits that failed or if `verbose` all, what is not proved, and the verdict."""
    print_install(install)
    document = document_of(install, report)
    patches = items_of_patches(report)
    if patches:
        click.echo()
    print_items(patches)
    shown: set[str] = set()
    for section in document.sections:
        items = []
        for item in section.items if section.title != UNPROVED else ():
            if verbose or not item.ok:
                is_known = bool(item.detail) and item.detail in shown
                items.append(replace(item, lines=(f"{item.outcome}: as above",)) if is_known else item)
                shown.add(item.detail)
        if items:
            click.secho(f"\n{section.title}", bold=True)
            for note in section.notes:
                print_sentence(f"({note})", "  ")
            print_items(items)
    click.echo()
    for line in (*document.notes, *([conditions_of(report)] if report.cases else []), *document.verdict):
        print_sentence(line)


def items_of_patches(report: ProofReport) -> list[Item]:
    """For each patch what the released and the patched source showed, in a few words."""
    items = []
    for patch_id in dict.fromkeys(case.patch for case in report.cases if case.patch is not None):
        own = [case for case in report.cases if case.patch == patch_id]
        ok = all(case.ok for case in own)
        source = next((case.source for case in own if case.source != "released"), None)
        together = [case for case in own if case.source == "released" and case.strategy != "single-process"]
        released = _in_words([case for case in together if case.expect != "pass"])
        shown = f"released: {released or ('no bug shown' if together else 'not run on several ranks')}"
        cells = (patch_id, shown, f"{source}: {'proved' if ok else 'NOT proved'}" if source else "")
        items.append(Item(ok, "pass" if ok else "failed", patch_id, cells, ()))
    return items


def _in_words(results: Sequence[CaseResult]) -> str:
    """What these fits of the released source, which have a bug there, showed; each kind once."""
    words = {"wrong": "differs", "error": "fails"}
    kinds = {words.get(each.outcome, each.outcome) for each in results if each.outcome != "unused-parameters"}
    unused = [len(each.unused_parameters) for each in results if each.outcome == "unused-parameters"]
    if unused:
        number = pluralize(max(unused), "unused parameter", "unused parameters")
        kinds.add(number if len(set(unused)) == 1 else f"up to {number}")
    if not all(each.ok for each in results):
        kinds.add("not as expected")
    return ", ".join(sorted(kinds))


def document_of(install: Install, report: ProofReport, agenda: Optional[Agenda] = None) -> Document:
    """The proof as a document: a section for each configuration, and one for what is not proved."""
    sections = []
    for title, results in groups(report):
        required = required_in_words(results)
        notes = (f"for this configuration: {required}",) if required else ()
        sections.append(Section(title, tuple(map(_item_of, results)), notes, _unused_in(results)))
    unproved = tuple(
        Item(
            ok=patch_id not in report.coverage.missing,
            outcome="unproved",
            name="proof",
            cells=(patch_id, ""),
            lines=(f"not proved: {reason}",),
            detail=reason,
            is_skipped=patch_id not in report.coverage.missing,
        )
        for patch_id, reason in report.coverage.unproved.items()
    )
    if unproved:
        sections.append(Section(UNPROVED, unproved))
    rewritten = {} if agenda is None else agenda.rewritten
    diff = "".join(line for file, (old, new) in rewritten.items() for line in unified_diff(file, old, new))
    return Document(
        command="nfpatch verify",
        title=f"neuralforecast {install.version}: {'proved' if report.ok and report.proved else 'NOT proved'}",
        ok=report.ok,
        facts=_facts(install, report),
        sections=tuple(sections),
        verdict=tuple(verdict_of(report)),
        notes=tuple(coverage_in_words(report)),
        extra=("The diff", diff),
        seconds=report.seconds,
    )


def _item_of(result: CaseResult) -> Item:
    what = STRATEGIES[result.strategy] if result.stage == "fit" else result.stage
    return Item(
        ok=result.ok,
        outcome=result.outcome,
        name=f"{result.source} source, {STRATEGIES[result.strategy]}",
        cells=(result.source, what),
        lines=(finding_of(result),),
        detail=result.detail,
        seconds=result.seconds,
    )


def _unused_in(results: Sequence[CaseResult]) -> tuple[tuple[str, str], ...]:
    named = {result.unused_parameters: result.source for result in results if result.unused_parameters}
    return tuple(
        (f"{pluralize(len(names), 'unused parameter', 'unused parameters')} ({source} source)", "\n".join(names))
        for names, source in named.items()
    )


def _facts(install: Install, report: ProofReport) -> tuple[tuple[str, str], ...]:
    facts = {
        "neuralforecast": f"{install.version} in {install.site_packages}",
        **({} if report.stack is None else report.stack.versions),
        "world size": report.world_size,
        "backend": report.backend,
        "seconds": f"{report.seconds:.1f}",
    }
    return tuple((name, str(value)) for name, value in facts.items() if value is not None)


def groups(report: ProofReport) -> list[tuple[str, list[CaseResult]]]:
    """The results of each configuration under its title."""
    return [(title, list(results)) for title, results in groupby(report.cases, key=_group_of)]


def is_control(result: CaseResult) -> bool:
    """Whether it is a fit of the control, which has no patch and is no stage of a script."""
    return result.patch is None and result.stage == "fit"


def _group_of(result: CaseResult) -> str:
    what = f"{result.model} (control)" if is_control(result) else f"{result.model}, {result.config}"
    return what + _by(result.launcher)


def finding_of(result: CaseResult) -> str:
    """What a fit showed, in a few words."""
    if result.outcome == "unused-parameters":
        refused = "refused: " if result.strategy == "strict-ddp" else ""
        words = f"{refused}{_without_gradient(result)}"
        return words if result.ok else f"{words}. {'' if result.expect == 'pass' else result.detail}".rstrip(". ")
    if result.outcome == "pass":
        words = _success_of(result)
        return words if result.ok else f"{words}. {result.detail}"
    return f"{'a single process raises the same error' if result.refused_alone else result.outcome}: {result.detail}"


def _success_of(result: CaseResult) -> str:
    if result.stage != "fit":
        if result.stage == "no-batch":
            return "every rank raises an error that says what to set"
        return "matches the single-process reference on every rank"
    if result.unused_parameters:
        return f"trains; {_without_gradient(result)}"
    if result.strategy == "single-process" and result.matches_reference:
        return "trains; weights and forecasts bit-identical to the original"
    words = f"trains: {result.steps} steps, {result.parameters:,} parameters"
    if result.strategy != "single-process":
        words += ", equal weights on all ranks"
    if result.matches_reference:
        how = " with find_unused_parameters=True" if str(result.like).endswith("find-unused-ddp") else ""
        words += f", bit-identical to the original{how}"
    return words


def _without_gradient(result: CaseResult) -> str:
    number = pluralize(len(result.unused_parameters), "unused parameter", "unused parameters")
    return f"{number} ({listed(result.unused_parameters)})"


def conditions_of(report: ProofReport) -> str:
    """The sentence on processes, backend, versions and time."""
    processes = "No fit was distributed" if report.world_size is None else f"World size {report.world_size}"
    if report.nodes > 1 and report.world_size is not None:
        processes += f" on {report.nodes} nodes"
    backend = "" if report.backend is None else f", backend {report.backend}"
    if report.accelerator == "gpu" and report.backend == "gloo":
        backend += ", because processes share a GPU, which nccl does not allow"
    return f"{processes}{backend}; {report.stack}; {report.seconds:.1f} s in total."


def verdict_of(report: ProofReport) -> list[str]:
    """The sentences at the end; the last says how many patches were proved."""
    coverage = report.coverage
    sentences = []
    failed = sum(not result.ok for result in report.cases)
    if failed:
        sentences.append(f"NOT proved: {pluralize(failed, 'fit has', 'fits have')} an unexpected result.")
    if any(not result.ok for result in report.cases if is_control(result)):
        sentences.append("The control failed too: check this machine and its environment before the patches.")
    if any(not r.ok and r.source == "installed" and r.outcome == "unused-parameters" for r in report.cases):
        sentences.append("The installed source is not patched. Run `nfpatch apply`, then `nfpatch verify` again.")
    if coverage.missing:
        sentences.append(f"NOT proved: {', '.join(coverage.missing)}.")
    elif coverage.unproved and not report.proved and not report.shows_bugs_only:
        sentences.append(
            "NOT proved: no patch was tested. `nfpatch verify --preview` tests what `nfpatch apply` would write."
        )
    if report.ok and report.shows_bugs_only:
        sentences.append("Shown: every fit of the released source has the expected result.")
    elif report.ok:
        sentences.append("Proved: every fit has the expected result." if report.cases else "Nothing to prove.")
    return [*sentences, f"{len(report.proved)} of {pluralize(len(report.patches), 'patch', 'patches')} proved."]
