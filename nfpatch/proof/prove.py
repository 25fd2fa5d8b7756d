"""Which fits prove an install, and the run of them."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Optional, get_args

from nfpatch.catalog import Case, Patch
from nfpatch.errors import Refused
from nfpatch.installs.find import Install
from nfpatch.patching.plan import changes_to, original_with, originals_of, wanted_by_apply
from nfpatch.patching.survey import PatchStatus, Survey
from nfpatch.proof.launch import ONE_NODE, Nodes
from nfpatch.proof.overlay import build_overlay
from nfpatch.proof.runner import ProofCase, ProofEvent, ProofReport, Source, full_disk, run_proof
from nfpatch.proof.verdict import Expectation, Launcher, Strategy

# NHITS trains under DDP: where it does not, the machine is at fault, not the patch. In 1.1.0 it has a dead output layer
# of its own with losses of several outputs.
TINY = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
CONTROLS = (
    Case(model="NHITS", config="MQLoss", loss="MQLoss", options=TINY, releases=">=1.2"),
    Case(model="NHITS", config="MAE", loss="MAE", options=TINY, releases="<1.2"),
)
# An ordinary script of each kind of model, stage by stage, on the healed source. What one process refuses as well, such
# as `predict_insample` of a multivariate model, counts for nothing.
TRAVELLERS = (
    CONTROLS[1]._replace(releases=""),
    Case("GRU", "MAE", options={"encoder_hidden_size": 8, "decoder_hidden_size": 8}, releases=">=1.1"),
    Case("TFT", "MAE", options={"hidden_size": 4, "n_head": 1}),
    Case("MLPMultivariate", "MAE", options={"hidden_size": 8}, releases=">=1.7.1"),
)
JOURNEY = ("validate", "predict", "insample", "cross-validation", "save", "load", "refit")


@dataclass(frozen=True)
class Agenda:
    """What there is to prove.

    `trees` are the files, by path, in which the source trees of these names differ from the installed one; None for a
    file that a tree does not have. `unproved` are the patches that leave nothing to prove here, with the reason.
    `rewritten` are original and patched bytes, each by path, of the files in which they differ.
    """

    cases: tuple[ProofCase, ...]
    trees: Mapping[str, Mapping[str, Optional[bytes]]]
    unproved: tuple[PatchStatus, ...] = ()
    rewritten: Mapping[str, tuple[Optional[bytes], Optional[bytes]]] = field(default_factory=dict)


def agenda_for(
    found: Survey,
    patches: Sequence[Patch],
    preview: bool = False,
    allow_modified: bool = False,
    thorough: bool = False,
    force: bool = False,
    launchers: Sequence[Launcher] = ("torchrun",),
    renew_all: bool = False,
) -> Agenda:
    """The fits that prove these patches; without patches, all that the release needs or has.

    With `preview` the patched source is computed, as `apply` does with `allow_modified`, `force` and `renew_all`, and
    proved instead of the installed one. With `thorough` all cases of the patches are trained, and without patches the
    journeys are taken as well. Each of the `launchers` trains them in turn. Raises Refused when the patched source
    cannot be computed, or when a killed run left the install half done.
    """
    if found.interrupted:
        raise Refused("A killed run left this install half done. Run `nfpatch apply` or `nfpatch revert` first.")
    statuses = [found.status_of(patch) for patch in patches or found.catalog.patches]
    if not patches:
        statuses = [status for status in statuses if status.state != "opt-in"]
    originals = originals_of(found)
    applying = [status.patch for status in statuses]
    wanted = wanted_by_apply(found, applying, allow_modified, renew_all or not patches) if preview else {}
    changes = {change.file: change.then for change in changes_to(found, wanted, allow_modified, force)}
    healed: Source = "preview" if preview else "installed"
    version = found.install.version
    control = next(control for control in CONTROLS if control.is_possible_in(version))
    fits: list[ProofCase] = []
    for launcher in dict.fromkeys(launchers):
        own = [
            fit
            for status in statuses
            if _has_its_files(found, status) and (patches or status.state != "not-needed")
            for case in status.patch.cases
            if (thorough or not case.thorough) and case.is_possible_in(version)
            if _is_for(launcher, case, status.patch) and (launcher != "spark" or case.launchers or patches or thorough)
            for fit in _fits_of(status.patch, case, healed, _is_original_known(found, status, wanted), launcher)
        ]
        journeys = _journeys(healed, version) if thorough and not patches and launcher != "spark" else []
        fits += [_started_by(launcher, fit) for fit in own + _controls(own, control) + journeys]
    applied = {status.patch.id for status in found.statuses if status.state in ("applied", "outdated")}
    carried = applied.union(*wanted.values())
    fits = [fit for fit in fits if _are_healed(found, found.catalog.select(fit.case.requires), carried)]
    predicted_together = {launcher for launcher in launchers if _is_prediction_healed(found, carried, launcher)}
    # What is meant to be learned otherwise is so on both sides of a comparison
    compared = {fit.like for fit in fits if fit.like is not None}
    on_purpose = {patch.id for patch in found.catalog.patches if patch.opt_in}
    fits = [
        replace(
            fit,
            requires=tuple(sorted(carried & {*fit.requires, *(on_purpose if fit.id in compared else ())})),
            forecast="together" if fit.launcher in predicted_together and _asks_all_ranks(fit) else fit.forecast,
        )
        for fit in fits
    ]
    proved = {fit.patch for fit in fits}
    unproved = tuple(status for status in statuses if status.patch.id not in proved)
    trees = {"original": originals, "preview": changes}
    for fit in fits:
        if fit.tree not in (*trees, "installed"):
            trees[fit.tree] = {**originals, **original_with(found, frozenset(fit.requires), allow_modified)}
    return Agenda(tuple(fits), trees, unproved, _rewritten(found.contents, originals, changes))


def _started_by(launcher: Launcher, fit: ProofCase) -> ProofCase:
    """The fit in processes that this launcher makes, under an id of its own."""
    if launcher == "torchrun":
        return fit
    # On Spark the losses are those of whatever series the first rank got
    like = None if fit.like is None or launcher == "spark" else f"{fit.like}/{launcher}"
    return replace(fit, id=f"{fit.id}/{launcher}", like=like, launcher=launcher)


def _asks_all_ranks(fit: ProofCase) -> bool:
    """Whether what is trained is healed, and by all ranks, and makes forecasts."""
    return fit.source != "original" and fit.strategy == "strict-ddp" and fit.forecast is not None


def _are_healed(found: Survey, patches: Sequence[Patch], carried: AbstractSet[str]) -> bool:
    """Whether the healed source has each of these patches, or needs none."""
    return all(patch.id in carried or found.status_of(patch).state in ("not-needed", "opt-in") for patch in patches)


def _is_for(launcher: Launcher, case: Case, patch: Patch) -> bool:
    """Whether the case can be trained by this launcher.

    On Spark that are its own cases, and fits of one model that needs no other patch to train on several devices; these
    many only where they are asked for, as each imports everything anew.
    """
    if launcher != "spark":
        return case.launchers != ("spark",)
    is_plain_fit = case.stage == "fit" and not case.is_search and not case.requires
    return launcher in case.launchers or is_plain_fit


def _is_prediction_healed(found: Survey, carried: AbstractSet[str], launcher: Launcher) -> bool:
    """Whether the healed source, with the patches that it has, needs none to let several processes predict."""
    predicting = [
        patch
        for patch in found.catalog.patches
        if any(case.stage == "predict" and _is_for(launcher, case, patch) for case in patch.cases)
    ]
    return _are_healed(found, predicting, carried)


def _rewritten(
    installed: Mapping[str, Optional[bytes]],
    originals: Mapping[str, Optional[bytes]],
    changes: Mapping[str, Optional[bytes]],
) -> dict[str, tuple[Optional[bytes], Optional[bytes]]]:
    """The original and the patched bytes of each file in which they differ; None for a file that one does not have."""
    pairs = {file: (originals.get(file, content), changes.get(file, content)) for file, content in installed.items()}
    return {file: (original, patched) for file, (original, patched) in pairs.items() if original != patched}


def _has_its_files(found: Survey, status: PatchStatus) -> bool:
    """Whether the files are there that the patch rewrites here, or if it rewrites none, one that it does elsewhere."""
    there = {file for file in status.patch.files if found.contents[file] is not None}
    return there.issuperset(status.files) if status.files else bool(there)


def _is_original_known(found: Survey, status: PatchStatus, wanted: Mapping[str, frozenset[str]]) -> bool:
    """Whether the source without this patch is at hand: as it is installed, or as it is kept."""

    def is_known(file: str) -> bool:
        return status.patch.id in (wanted.get(file, frozenset()) | found.ledger.patches_of(file))

    return status.state == "applicable" or any(map(is_known, {*wanted, *status.files}))


def _fits_of(patch: Patch, case: Case, healed: Source, is_original_known: bool, launcher: Launcher) -> list[ProofCase]:
    """Red, green and parity: what fails on the original source trains on the healed one, and nothing else changed.

    A model that DDP refuses is compared in two ways in which it can be trained nonetheless; by torch's launcher, as
    what is learned does not hang on that. A search is not compared: it makes its models itself.
    """
    if case.stage != "fit":
        return _stage_of(patch, case, healed, is_original_known, launcher)
    if launcher == "spawn":  # it would import everything anew for each of these many fits
        return []
    fit = partial(_fit, patch, case)
    if not is_original_known:
        return [fit(healed)]
    if case.is_search or launcher != "torchrun":
        return [fit("original"), fit(healed)]
    original = fit("original")
    if not original.leaves_dead:
        return [original, fit(healed, like=original.id)]
    worked_around, alone = fit("original", "find-unused-ddp"), fit("original", "single-process")
    green, parity = fit(healed, like=worked_around.id), fit(healed, "single-process", like=alone.id)
    return [original, worked_around, alone, green, parity]


def _stage_of(patch: Patch, case: Case, healed: Source, is_original_known: bool, launcher: Launcher) -> list[ProofCase]:
    """Red, where it shows by the launcher, and green of a stage of a user's script; and parity of one process, once.

    A search is many fits, for each of which ddp_spawn would import everything anew. What one process finds through ray
    is not compared: ray imports everything anew for each trial.
    """
    if launcher == "spawn" and case.is_search and launcher not in case.launchers:
        return []

    def stage(source: Source, expect: Expectation) -> ProofCase:
        name = f"{patch.id}/{case.model}/{case.config}/{source}/{case.stage}"
        symptoms = patch.symptoms if expect == "wrong" else ()
        beside = case.requires if source == "original" else ()
        return ProofCase(name, patch.id, case, source, expect, forecast=None, symptoms=symptoms, requires=beside)

    fits = [stage(healed, "pass")]
    if is_original_known:
        shows = not case.original_hangs and (not case.launchers or launcher in case.launchers)
        fits = [*((stage("original", "wrong"),) if shows else ()), *fits]
    keeps_one_process = case.stage != "ray-search" and not patch.opt_in
    if is_original_known and launcher == "torchrun" and keeps_one_process:
        fit = partial(_fit, patch, case._replace(stage="fit", unused_parameters=()), strategy="single-process")
        alone = fit("original")
        fits += [alone, fit(healed, like=alone.id)]
    return fits


def _fit(
    patch: Patch, case: Case, source: Source, strategy: Strategy = "strict-ddp", like: Optional[str] = None
) -> ProofCase:
    """A fit of a patch's case: refused by strict DDP where the source leaves dead parameters, else passing."""
    claimed = patch.unused_parameters if case.unused_parameters is None else case.unused_parameters
    leaves_dead = source == "original" and case.unused_parameters != ()
    return ProofCase(
        id=f"{patch.id}/{case.model}/{case.config}/{source}/{strategy}",
        patch=patch.id,
        case=case,
        source=source,
        expect="unused-parameters" if leaves_dead and strategy == "strict-ddp" else "pass",
        unused_parameters=claimed,
        strategy=strategy,
        leaves_dead=leaves_dead,
        like=like,
        requires=case.requires if source == "original" else (),
    )


def _controls(fits: Sequence[ProofCase], control: Case) -> list[ProofCase]:
    """The control on every source that is trained; where there are two, the second must end like the first."""
    sources = sorted({fit.source for fit in fits}, key=get_args(Source).index)
    names = [f"control/{control.model}/{source}" for source in sources]
    like = [None, *names[:1] * (len(names) - 1)]
    return [
        ProofCase(name, None, control, source, "pass", like=other) for name, source, other in zip(names, sources, like)
    ]


def _journeys(healed: Source, version: str) -> list[ProofCase]:
    """The stages of an ordinary script of each kind of model that the release has."""
    return [
        ProofCase(f"journey/{model.model}/{healed}/{stage}", None, case, healed, "pass", forecast=None)
        for model in TRAVELLERS
        if model.is_possible_in(version)
        for stage in JOURNEY
        for case in [model._replace(config="journey", stage=stage)]
    ]


def run_agenda(
    agenda: Agenda,
    install: Install,
    devices: int = 2,
    accelerator: str = "cpu",
    timeout: float = 300.0,
    on_event: Optional[Callable[[ProofEvent], None]] = None,
    nodes: Nodes = ONE_NODE,
) -> ProofReport:
    """Train all cases of the agenda, those of each launcher in one launch.

    Raises what `run_proof` raises.
    """
    # On several nodes the trials of the original wait for the other nodes for ever
    cases = [
        fit for fit in agenda.cases if nodes.nnodes == 1 or (fit.case.stage, fit.source) != ("ray-search", "original")
    ]
    if not cases:
        return ProofReport(True, None, None, None, None, None, 0.0, ())
    with _full_disk_reported(), tempfile.TemporaryDirectory(prefix="nfpatch-trees-") as folder:
        trees = {name: _tree(install, Path(folder, name), files) for name, files in agenda.trees.items()}
        trees["installed"] = install.tree
        return run_proof(
            python=install.python,
            cases=cases,
            trees=trees,
            extra_path=install.extra_path,
            devices=devices,
            accelerator=accelerator,
            timeout=timeout,
            on_event=on_event,
            nodes=nodes,
        )


@contextmanager
def _full_disk_reported() -> Iterator[None]:
    """Gives an error of the system that the disk is full the place and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk() from error
        raise


def _tree(install: Install, folder: Path, replacements: Mapping[str, Optional[bytes]]) -> Optional[Path]:
    """A source tree with these files; None, which stands for the installed one, where nothing differs."""
    return build_overlay(install.package, folder, replacements) if replacements else None
