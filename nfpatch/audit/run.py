"""The run of an audit: the models, the results of their cells, and the report on the release."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Literal, Optional

from nfpatch.audit.cells import TRAINED_OTHERWISE, cells_of
from nfpatch.audit.models import losses_of, models_of
from nfpatch.audit.options import NOT_IN_THE_TABLE, entry_of
from nfpatch.catalog import Case
from nfpatch.engine.probe import Stack, versions_in_json
from nfpatch.errors import InstallEnvironmentError, UsageError
from nfpatch.installs.find import Install, module_file
from nfpatch.proof.runner import ProofEvent, ProofReport, RunOptions, run_proof
from nfpatch.proof.verdict import CaseResult, ProofCase

# Training steps of each cell. A parameter that each step leaves out with probability 1/2, as in SOFTSSharp, is missed
# with probability 1/1024. The seed is fixed, so that two audits of a release find the same.
STEPS = 10
PROCESSES = 2

CellOutcome = Literal["clean", "unused", "error"]


@dataclass(frozen=True)
class Cell:
    """One configuration of a model and its result.

    "unused": the `unused_parameters` had no gradient in some step. "error": the fit failed, so nothing is known; the
    `detail` says why, and it was `refused` if the release itself does not accept the configuration. It `is_finished`
    unless the process crashed or the time limit was reached.
    """

    case: Case
    outcome: CellOutcome
    unused_parameters: tuple[str, ...]
    detail: str
    refused: bool
    is_finished: bool
    seconds: float

    @property
    def reason(self) -> str:
        """The first line of the detail, without the rank that reported it."""
        return re.sub(r"^rank \d+: ", "", self.detail).partition("\n")[0]

    def to_json(self) -> dict[str, object]:
        """An element of `cells` in the JSON of `nfpatch audit`."""
        return {
            "model": self.case.model,
            "config": self.case.config,
            "outcome": self.outcome,
            "unused_parameters": list(self.unused_parameters),
            "detail": self.detail,
            "refused": self.refused,
            "loss": self.case.loss,
            "exogenous": list(self.case.exogenous),
            "options": dict(self.case.options),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class TrainingCheck:
    """Whether the training options of the table change no unused parameters.

    `options` were all varied at once, with these values, in one cell of each model. The unused parameters of a model
    stayed the same (`alike`) or did not (`unlike`); it is `not_known` if a fit failed.
    """

    options: dict[str, object]
    alike: tuple[str, ...]
    unlike: tuple[str, ...]
    not_known: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit. With `ddp`, strict DDP trained the cells; otherwise one process trained each."""

    cells: tuple[Cell, ...]
    unknown_options: tuple[str, ...]
    ddp: bool
    stack: Optional[Stack]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every cell is finished, and none has unused parameters."""
        return all(cell.outcome != "unused" and cell.is_finished for cell in self.cells)

    @property
    def not_audited(self) -> dict[str, str]:
        """The models of which no cell could be trained, with the reason of the first cell."""
        trained = {cell.case.model for cell in self.cells if cell.outcome != "error"}
        reasons: dict[str, str] = {}
        for cell in self.cells:
            if cell.case.model not in trained:
                reasons.setdefault(cell.case.model, cell.reason)
        return reasons

    @property
    def training(self) -> TrainingCheck:
        """Whether the cells with other training options have the unused parameters of their twins without."""
        usual = {(cell.case.model, cell.case.config): cell for cell in self.cells}
        options: dict[str, object] = {}
        models: dict[str, list[str]] = {"alike": [], "unlike": [], "not_known": []}
        suffix = f", {TRAINED_OTHERWISE}"
        for cell in self.cells:
            case = cell.case
            if not case.config.endswith(suffix):
                continue
            twin = usual[case.model, case.config[: -len(suffix)]]
            options.update({name: value for name, value in case.options.items() if name not in twin.case.options})
            if "error" in (twin.outcome, cell.outcome):
                models["not_known"].append(case.model)
            else:
                is_alike = set(twin.unused_parameters) == set(cell.unused_parameters)
                models["alike" if is_alike else "unlike"].append(case.model)
        return TrainingCheck(options, **{how: tuple(found) for how, found in models.items()})

    def to_json(self) -> dict[str, object]:
        """The report as the JSON of `nfpatch audit`, but for the key "neuralforecast", which is the caller's."""
        return {
            "ok": self.ok,
            "ddp": self.ddp,
            "steps": STEPS,
            **versions_in_json(self.stack),
            "seconds": round(self.seconds, 3),
            "not_audited": self.not_audited,
            "unknown_options": list(self.unknown_options),
            "training": asdict(self.training),
            "cells": [cell.to_json() for cell in self.cells],
        }


@dataclass(frozen=True)
class AuditAgenda:
    """The cells of an audit, and the options that the table lacks, as `Model.option`."""

    cells: tuple[Case, ...]
    unknown_options: tuple[str, ...]


def agenda_for(install: Install, names: Sequence[str] = ()) -> AuditAgenda:
    """The cells of the models with these names, or of all models of the install, in the order of the release.

    Raises UsageError if the release has no model of a name.
    """
    models = models_of(install.package)
    known = [model.name for model in models]
    for unknown in (name for name in names if name not in known):
        by_lower_case = {name.lower(): name for name in known}
        near = [by_lower_case[name] for name in get_close_matches(unknown.lower(), by_lower_case)]
        hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(known)}."
        raise UsageError(f"neuralforecast {install.version} has no model named {unknown!r}. {hint}")
    losses = losses_of(install.package)
    chosen = [model for model in models if not names or model.name in names]
    return AuditAgenda(
        cells=tuple(cell for model in chosen for cell in cells_of(model, losses)),
        unknown_options=tuple(
            f"{model.name}.{option}"
            for model in chosen
            for option in model.options
            if entry_of(model, option) is NOT_IN_THE_TABLE
        ),
    )


def run_audit(
    agenda: AuditAgenda,
    install: Install,
    ddp: bool = False,
    timeout: float = 900.0,
    on_event: Callable[[ProofEvent], None] = lambda event: None,
) -> AuditReport:
    """Trains all cells; `timeout` is in seconds, for all together.

    Each cell is trained by one of two independent processes, or by strict `ddp` in both. Some patches give a parameter
    a gradient on several ranks only. So if the install has runtime modules, the cells with unused parameters are
    trained by strict DDP as well, and are clean if it does not refuse them.

    Raises InstallEnvironmentError if the interpreter cannot train at all, or the temporary folder is full.
    """
    report = _trained(agenda.cells, install, ddp, timeout, on_event)
    found = [_cell_of(cell, result) for cell, result in zip(agenda.cells, report.cases)]
    if all(cell.outcome == "error" for cell in found):
        raise InstallEnvironmentError(
            f"Nothing could be audited: {found[0].case.model}, {found[0].case.config}: {found[0].detail}\n"
            "Check the environment of this interpreter, or name another one with --python."
        )
    seconds = report.seconds
    unused = {number: cell for number, cell in enumerate(found) if cell.outcome == "unused"}
    if unused and not ddp and install.file(module_file("__init__")).is_file():
        again = _trained([cell.case for cell in unused.values()], install, True, max(timeout - seconds, 1.0))
        seconds += again.seconds
        for (number, cell), result in zip(unused.items(), again.cases):
            if outcome_of(result) == "clean":
                found[number] = _cell_of(cell.case, result)
    return AuditReport(tuple(found), agenda.unknown_options, ddp, report.stack, seconds)


def _trained(
    cells: Sequence[Case],
    install: Install,
    ddp: bool,
    timeout: float,
    on_event: Callable[[ProofEvent], None] = lambda event: None,
) -> ProofReport:
    return run_proof(
        python=install.python,
        cases=[
            ProofCase(
                id=f"{cell.model}/{cell.config}",
                patch=None,
                case=cell,
                source="installed",
                expect="pass",
                strategy="strict-ddp" if ddp else "single-process",
                forecast=None,
            )
            for cell in cells
        ],
        trees={"installed": install.tree},
        options=RunOptions(PROCESSES, timeout=timeout, max_steps=STEPS, dealt=not ddp, persistent=True),
        extra_path=install.extra_path,
        on_event=on_event,
    )


def outcome_of(result: CaseResult) -> CellOutcome:
    """The outcome of a cell. Unused parameters count even if a later step failed."""
    if result.outcome == "unused-parameters" or result.unused_parameters:
        return "unused"
    return "clean" if result.outcome == "pass" else "error"


def _cell_of(case: Case, result: CaseResult) -> Cell:
    outcome = outcome_of(result)
    return Cell(
        case=case,
        outcome=outcome,
        unused_parameters=result.unused_parameters,
        detail=result.detail,
        refused=result.refused and outcome == "error",
        is_finished=result.is_finished,
        seconds=result.seconds,
    )
