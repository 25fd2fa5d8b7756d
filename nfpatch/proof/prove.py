"""Which fits prove an install, and the run of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from nfpatch.catalog import Case, Patch
from nfpatch.errors import Refused
from nfpatch.install import Install
from nfpatch.ledger import read_original
from nfpatch.plan import changes_to, wanted_by_apply
from nfpatch.proof.overlay import build_overlay
from nfpatch.proof.runner import ProofCase, ProofEvent, ProofReport, Source, run_proof
from nfpatch.proof.verdict import Strategy
from nfpatch.survey import PatchStatus, Survey

# NHITS trains under DDP in every release, with every loss: where it does not, the machine is at fault, not the patch.
CONTROL = Case(model="NHITS", config="MQLoss", loss="MQLoss", options={"mlp_units": [[8, 8], [8, 8], [8, 8]]})


@dataclass(frozen=True)
class Agenda:
    """What there is to prove.

    `originals` and `preview` are the files, by path, in which the source trees of those names differ from the installed
    one. `unproved` are the patches that leave nothing to prove here, with the reason.
    """

    cases: tuple[ProofCase, ...]
    originals: Mapping[str, bytes]
    preview: Mapping[str, bytes]
    unproved: tuple[PatchStatus, ...] = ()


def agenda_for(found: Survey, patches: Sequence[Patch], preview: bool = False, allow_modified: bool = False) -> Agenda:
    """The fits that prove these patches; without patches, all that the release needs or has.

    With `preview` the patched source is computed and proved instead of the installed one. Raises Refused when that
    cannot be computed, or when a killed run left the install half done.
    """
    if found.interrupted:
        raise Refused("A killed run left this install half done. Run `nfpatch apply` or `nfpatch revert` first.")
    statuses = [found.status_of(patch) for patch in patches or found.catalog.patches]
    originals = {
        file: read_original(found.install, file, entry.original_sha256) for file, entry in found.ledger.files.items()
    }
    healed: Source = "preview" if preview else "installed"
    wanted = wanted_by_apply(found, [status.patch for status in statuses], allow_modified) if preview else {}
    changes = {change.file: change.then for change in changes_to(found, wanted, allow_modified)}
    cases = [
        case
        for status in statuses
        if found.contents[status.patch.file] is not None and (patches or status.state != "not-needed")
        for case in _cases_of(found, status, healed)
    ]
    if cases:
        cases += _controls(cases)
    proved = {case.patch for case in cases}
    unproved = tuple(status for status in statuses if status.patch.id not in proved)
    return Agenda(tuple(cases), originals, changes, unproved)


def _cases_of(found: Survey, status: PatchStatus, healed: Source) -> list[ProofCase]:
    """The fits of one patch. Without the original at hand there is only the healed source to train."""
    patch = status.patch
    is_original_known = status.state == "applicable" or patch.id in found.ledger.patches_of(patch.file)
    fits = _fits_of_both if is_original_known else _fit_of_one
    return [fit for case in patch.cases for fit in fits(patch, case, healed)]


def _fit_of_one(patch: Patch, case: Case, source: Source) -> list[ProofCase]:
    """Green alone."""
    return [_fit(patch, case, source, "strict-ddp")]


def _fits_of_both(patch: Patch, case: Case, healed: Source) -> list[ProofCase]:
    """Red, green and parity: what fails on the original source trains on the healed one, and nothing else changed.

    A model that DDP refuses is compared in two ways in which it can be trained nonetheless.
    """
    if not case.leaves_unused_parameters:
        original = _fit(patch, case, "original", "strict-ddp")
        return [original, _fit(patch, case, healed, "strict-ddp", like=original.id)]
    red = replace(_fit(patch, case, "original", "strict-ddp", leaves_dead=True), expect="unused-parameters")
    worked_around = _fit(patch, case, "original", "find-unused-ddp", leaves_dead=True)
    alone = _fit(patch, case, "original", "single-process", leaves_dead=True)
    green = _fit(patch, case, healed, "strict-ddp", like=worked_around.id)
    parity = _fit(patch, case, healed, "single-process", like=alone.id)
    return [red, worked_around, alone, green, parity]


def _fit(
    patch: Optional[Patch],
    case: Case,
    source: Source,
    strategy: Strategy,
    leaves_dead: bool = False,
    like: Optional[str] = None,
) -> ProofCase:
    """A fit that must pass; of the control where there is no patch."""
    return ProofCase(
        id=f"{'control' if patch is None else patch.id}/{case.model}/{case.config}/{source}/{strategy}",
        patch=None if patch is None else patch.id,
        case=case,
        source=source,
        expect="pass",
        dead_parameters=() if patch is None else patch.dead_parameters,
        strategy=strategy,
        leaves_dead=leaves_dead,
        like=like,
    )


def _controls(cases: Sequence[ProofCase]) -> list[ProofCase]:
    """The control on every source that is trained, like itself where there are two."""
    first, *others = dict.fromkeys(case.source for case in sorted(cases, key=lambda c: c.source != "original"))
    control = _fit(None, CONTROL, first, "strict-ddp")
    return [control, *(_fit(None, CONTROL, source, "strict-ddp", like=control.id) for source in others)]


def run_agenda(
    agenda: Agenda,
    install: Install,
    python: Optional[Path] = None,
    site_packages: Optional[Path] = None,
    devices: int = 2,
    accelerator: str = "cpu",
    timeout: float = 300.0,
    on_event: Optional[Callable[[ProofEvent], None]] = None,
) -> ProofReport:
    """Train all cases of the agenda in one launch; `python` defaults to this interpreter.

    Raises EnvironmentProblem where the interpreter cannot train at all.
    """
    if not agenda.cases:
        return ProofReport(True, None, None, None, None, None, 0.0, ())
    with tempfile.TemporaryDirectory(prefix="nfpatch-trees-") as folder:
        trees: dict[str, Optional[Path]] = {"installed": None if install.kind == "regular" else install.root}
        trees["original"] = _tree(install, Path(folder, "original"), agenda.originals)
        trees["preview"] = _tree(install, Path(folder, "preview"), agenda.preview)
        return run_proof(
            python=python or Path(sys.executable),
            cases=agenda.cases,
            trees=trees,
            extra_path=() if site_packages is None else (Path(os.path.abspath(site_packages)),),
            devices=devices,
            accelerator=accelerator,
            timeout=timeout,
            on_event=on_event,
        )


def _tree(install: Install, folder: Path, replacements: Mapping[str, bytes]) -> Optional[Path]:
    """A source tree with these files; None, which stands for the installed one, where nothing differs."""
    return build_overlay(install.package, folder, replacements) if replacements else None
