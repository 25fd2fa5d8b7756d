"""Which fits prove an install, and the run of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Optional, get_args

from nfpatch.catalog import Case, Patch, Selection
from nfpatch.engine.launch import temporary_folder
from nfpatch.engine.sources import Source, Tree, build_source, check_not_interrupted, patched_tree
from nfpatch.errors import RefusedError
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, PatchStatus
from nfpatch.patching.plan import original_with, originals_of, plan_apply, plan_partial
from nfpatch.patching.selection import choice_for_apply, is_applied, is_selected
from nfpatch.proof.runner import Coverage, ProofEvent, ProofReport, RunOptions, Unproved, run_proof
from nfpatch.proof.verdict import Expectation, Launcher, ProofCase, Strategy

# NHITS trains under DDP: where it does not, the machine is at fault, not the patch. In 1.1.0 it has an unused output
# layer of its own with losses of several outputs.
TINY = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
CONTROLS = (
    Case(model="NHITS", config="MQLoss", loss="MQLoss", options=TINY, releases=">=1.2"),
    Case(model="NHITS", config="MAE", loss="MAE", options=TINY, releases="<1.2"),
)
# An ordinary script of each kind of model, stage by stage, on the patched source. What one process refuses as well, as
# `predict_insample` of a multivariate model, counts for nothing.
TRAVELLERS = (
    CONTROLS[1]._replace(releases=""),
    Case("GRU", "MAE", options={"encoder_hidden_size": 8, "decoder_hidden_size": 8}, releases=">=1.1"),
    Case("TFT", "MAE", options={"hidden_size": 4, "n_head": 1}),
    Case("MLPMultivariate", "MAE", options={"hidden_size": 8}, releases=">=1.7.1"),
)
# What a proof may take, in seconds: to begin, and for each fit. An idle machine needs a tenth of it.
STARTING_SECONDS, SECONDS_A_FIT = 300.0, 30.0
JOURNEY = ("validate", "predict", "insample", "cross-validation", "save", "load", "refit")


@dataclass(frozen=True)
class ProofRequest:
    """What is to be proved, and how.

    `source` is what is held against the released one: the installed one, or the patched one, which is computed as
    `apply` does with `allow_modified`, `force` and `keep_going`. If it is "released", only that is run, and its faults
    are shown. With `thorough` all cases of the patches are trained, and where nothing was named the journeys are taken
    as well. Each of the `launchers` trains them in turn.
    """

    selection: Selection
    source: Source = "installed"
    allow_modified: bool = False
    force: bool = False
    keep_going: bool = False
    thorough: bool = False
    launchers: tuple[Launcher, ...] = ("torchrun",)

    @property
    def is_computed(self) -> bool:
        """Whether it is about what `apply` would write, and not about what is installed."""
        return self.source != "installed"

    @property
    def patched(self) -> Source:
        """The source that is held against the original."""
        return "patched" if self.is_computed else "installed"


@dataclass(frozen=True)
class Agenda:
    """What there is to prove.

    `trees` are the files, by path, in which the source trees of these names differ from the installed one; None for a
    file that a tree does not have. `coverage` says which patches in question no fit shows. `rewritten` are original and
    patched bytes, each by path, of the files in which they differ.
    """

    cases: tuple[ProofCase, ...]
    trees: Mapping[str, Tree]
    coverage: Coverage = field(default_factory=Coverage)
    rewritten: Mapping[str, tuple[Optional[bytes], Optional[bytes]]] = field(default_factory=dict)


def agenda_for(found: InstallState, request: ProofRequest) -> Agenda:
    """The fits that prove what is applied of the patches selected, or what `apply` would write of them.

    A patch that was named by its id is proved whatever its state. Both sources of a case carry the patches that it
    requires (`Case.requires`): where they lack one, in a tree of its own. Raises RefusedError when the patched source
    cannot be computed, or when a killed run left the install half done.
    """
    check_not_interrupted(found)
    version, selection, patched = found.install.version, request.selection, request.patched
    originals = originals_of(found)
    chosen = choice_for_apply(found, selection).patches if request.is_computed else ()
    if request.keep_going:
        chosen = plan_partial(found, chosen, request.allow_modified, request.force).patches
    wanted = plan_apply(found, chosen, request.allow_modified) if request.is_computed else {}
    changes = patched_tree(found, wanted, request.allow_modified, request.force)
    applied = {patch.id for patch in found.catalog.patches if is_applied(found, found.status_of(patch))}
    carried = applied.union(*wanted.values())
    subjects = _subjects(found, request, carried)
    control = next(control for control in CONTROLS if control.is_possible_in(version))
    fits: list[ProofCase] = []
    for launcher in dict.fromkeys(request.launchers):
        own = [
            fit
            for status in subjects
            if _has_its_files(found, status)
            for case in _cases_of(status.patch, launcher, version, request)
            for fit in _fits_of(status.patch, case, patched, _is_original_known(found, status, wanted), launcher)
        ]
        takes_journeys = request.thorough and selection.is_default and launcher != "spark"
        journeys = _journeys(patched, version) if takes_journeys else []
        fits += [_started_by(launcher, fit) for fit in own + _controls(own, control) + journeys]
    if request.source == "released":
        fits = [fit for fit in fits if fit.source == "released" and fit.strategy == "strict-ddp"]
    fits = [_with_required(found, fit, fits, carried) for fit in fits]
    trees: dict[str, Tree] = {"released": originals, "patched": changes}
    problems: dict[str, str] = {}
    for fit in fits:
        if fit.requires and fit.tree not in (*trees, *problems):
            try:
                trees[fit.tree] = _tree_of(found, request, fit, wanted, originals)
            except RefusedError as error:
                problems[fit.tree] = f"{', '.join(fit.requires)} cannot be applied with it: {error}"
    untrainable = {(fit.patch, fit.case.model, fit.case.config): fit.tree for fit in fits if fit.tree in problems}
    fits = [fit for fit in fits if (fit.patch, fit.case.model, fit.case.config) not in untrainable]
    coverage = _coverage(found, request, subjects, fits, {key[0]: problems[untrainable[key]] for key in untrainable})
    return Agenda(tuple(fits), trees, coverage, _rewritten(found.contents, originals, changes))


def _subjects(found: InstallState, request: ProofRequest, carried: AbstractSet[str]) -> list[PatchStatus]:
    """What is to be shown: of the patches selected those that the patched source carries, and those named by their id.

    Where it is computed, `carried` also has what those require.
    """
    selection = request.selection
    brought = choice_for_apply(found, selection).brought_along if request.is_computed else {}
    ids = {patch.id for patch in selection.patches}.union(brought)
    shown = [patch for patch in found.catalog.patches if patch.id in ids and patch.id in {*carried, *selection.ids}]
    return [found.status_of(patch) for patch in shown]


def _coverage(
    found: InstallState,
    request: ProofRequest,
    subjects: Sequence[PatchStatus],
    fits: Sequence[ProofCase],
    problems: Mapping[Optional[str], str],
) -> Coverage:
    """Which patches these fits do not show: of the subjects, and of what is needed, selected and not applied."""
    selection = request.selection
    shown = {fit.patch for fit in fits}
    looked_at = {status.patch.id for status in subjects}
    unproved, not_needed = [], {}
    for patch in found.catalog.patches:
        status = found.status_of(patch)
        reason = ""
        if patch.id in selection.skipped or (patch.id in shown and request.source != "released"):
            continue
        if patch.id in shown:
            unproved.append(Unproved(patch.id, "only the released source was run"))
        elif patch.id in looked_at and status.state == "not-needed":
            not_needed[patch.id] = status.reason
        elif patch.id in looked_at:
            reason = problems.get(patch.id) or _why_unproved(found, status, request)
        elif status.state != "not-needed" and patch in selection.patches and is_selected(selection, patch):
            is_plain = status.state == "applicable"
            reason = "it is needed and not applied" if is_plain else f"{status.state}: {status.reason}"
        if reason:
            unproved.append(Unproved(patch.id, reason, patch.id in selection.ids))
    return Coverage(tuple(unproved), not_needed, selection.skipped)


def _why_unproved(found: InstallState, status: PatchStatus, request: ProofRequest) -> str:
    """Why no fit shows a patch that is there: it has none, or takes other options."""
    patch, version = status.patch, found.install.version
    if not patch.cases:
        return patch.why_no_cases or "it has no cases"
    if not _has_its_files(found, status):
        return "a file that it rewrites is missing"
    for options, other in {
        "--thorough": replace(request, thorough=True),
        **{f"--launcher {name}": replace(request, launchers=(name,)) for name in get_args(Launcher)},
        **{
            f"--launcher {name} --thorough": replace(request, launchers=(name,), thorough=True)
            for name in get_args(Launcher)
        },
    }.items():
        if any(
            _fits_of(patch, case, request.patched, True, launcher)
            for launcher in other.launchers
            for case in _cases_of(patch, launcher, version, other)
        ):
            return f"it takes {options}"
    return f"none of its cases can be trained by neuralforecast {version}"


def _cases_of(patch: Patch, launcher: Launcher, version: str, request: ProofRequest) -> list[Case]:
    """The cases of a patch that are trained by this launcher; the first thorough one where there are no others.

    A search through a real ray takes longer than all others together: it has to be asked for.
    """
    is_asked_for = request.thorough or patch.id in request.selection.ids
    cases = [
        case
        for case in patch.cases
        if case.is_possible_in(version)
        if _is_for(launcher, case, patch) and (launcher != "spark" or case.launchers or is_asked_for)
        if case.stage != "ray-search" or is_asked_for
    ]
    return cases if request.thorough else [case for case in cases if not case.thorough] or cases[:1]


def _with_required(
    found: InstallState, fit: ProofCase, fits: Sequence[ProofCase], carried: AbstractSet[str]
) -> ProofCase:
    """The fit with the patches that its source lacks and its case requires.

    What is meant to be learned otherwise is so on both sides of a comparison. The forecasts are asked of all ranks
    where they can be had of them.
    """
    catalog = found.catalog
    brought = catalog.select([*catalog.with_required(fit.case.requires)])
    required = {patch.id for patch in brought if found.status_of(patch).state != "not-needed"}
    if fit.source == "released":
        on_purpose = {patch.id for patch in catalog.patches if patch.opt_in and patch.id in carried}
        is_compared = any(other.like == fit.id for other in fits)
        missing = (required | (on_purpose if is_compared else set())) - {fit.patch}
        return replace(fit, requires=tuple(sorted(missing)))
    missing = required - carried
    asks_all_ranks = fit.strategy == "strict-ddp" and fit.forecast is not None
    is_together = asks_all_ranks and _lets_all_ranks_predict(found, carried | missing, fit.launcher)
    return replace(fit, requires=tuple(sorted(missing)), forecast="together" if is_together else fit.forecast)


def _tree_of(
    found: InstallState, request: ProofRequest, fit: ProofCase, wanted: Mapping[str, frozenset[str]], originals: Tree
) -> Tree:
    """The source of a fit with the patches that its case requires."""
    if fit.source == "released":
        return {**originals, **original_with(found, frozenset(fit.requires), request.allow_modified)}
    sets = dict(wanted)
    for patch in found.catalog.select(fit.requires):
        for file in found.variant_of(patch).files:
            sets[file] = sets.get(file, found.ledger.patches_of(file)) | {patch.id}
    return patched_tree(found, sets, request.allow_modified, request.force)


def _started_by(launcher: Launcher, fit: ProofCase) -> ProofCase:
    """The fit in processes that this launcher makes, under an id of its own."""
    if launcher == "torchrun":
        return fit
    # On Spark the losses are those of whatever series the first rank got
    like = None if fit.like is None or launcher == "spark" else f"{fit.like}/{launcher}"
    return replace(fit, id=f"{fit.id}/{launcher}", like=like, launcher=launcher)


def _is_for(launcher: Launcher, case: Case, patch: Patch) -> bool:
    """Whether the case can be trained by this launcher.

    On Spark that are its own cases, and fits of one model that needs no other patch to train on several devices; these
    many only where they are asked for, as each imports everything again.
    """
    if launcher != "spark":
        return case.launchers != ("spark",)
    is_plain_fit = case.stage == "fit" and not case.is_search and not case.requires
    return launcher in case.launchers or is_plain_fit


def _lets_all_ranks_predict(found: InstallState, carried: AbstractSet[str], launcher: Launcher) -> bool:
    """Whether a source with these patches lacks none that is needed to predict on several processes."""
    return all(
        patch.id in carried or patch.opt_in or found.status_of(patch).state == "not-needed"
        for patch in found.catalog.patches
        if any(case.stage == "predict" and _is_for(launcher, case, patch) for case in patch.cases)
    )


def _rewritten(installed: Tree, originals: Tree, changes: Tree) -> dict[str, tuple[Optional[bytes], Optional[bytes]]]:
    """The original and the patched bytes of each file in which they differ; None for a file that one does not have."""
    pairs = {file: (originals.get(file, content), changes.get(file, content)) for file, content in installed.items()}
    return {file: (original, patched) for file, (original, patched) in pairs.items() if original != patched}


def _has_its_files(found: InstallState, status: PatchStatus) -> bool:
    """Whether the files are there that the patch rewrites here, or if it rewrites none, one that it does elsewhere."""
    there = {file for file in status.patch.files if found.contents[file] is not None}
    return there.issuperset(status.files) if status.files else bool(there)


def _is_original_known(found: InstallState, status: PatchStatus, wanted: Mapping[str, frozenset[str]]) -> bool:
    """Whether the source without this patch is at hand: as it is installed, or as it is kept."""

    def is_known(file: str) -> bool:
        return status.patch.id in (wanted.get(file, frozenset()) | found.ledger.patches_of(file))

    return status.state in ("applicable", "opt-in") or any(map(is_known, {*wanted, *status.files}))


def _fits_of(patch: Patch, case: Case, patched: Source, is_original_known: bool, launcher: Launcher) -> list[ProofCase]:
    """Red, green and parity: what fails on the released source trains on the patched one, and nothing else changed.

    A model that DDP refuses is compared in two ways in which it can be trained nonetheless; by torch's launcher, as
    what is learned does not hang on that. A search is not compared: it makes its models itself.
    """
    if case.stage != "fit":
        return _stage_of(patch, case, patched, is_original_known, launcher)
    if launcher == "spawn":  # it would import everything again for each of these many fits
        return []
    fit = partial(_fit, patch, case)
    if not is_original_known:
        return [fit(patched)]
    if case.is_search or launcher != "torchrun":
        return [fit("released"), fit(patched)]
    original = fit("released")
    if not original.has_unused:
        return [original, fit(patched, like=original.id)]
    worked_around, alone = fit("released", "find-unused-ddp"), fit("released", "single-process")
    green, parity = fit(patched, like=worked_around.id), fit(patched, "single-process", like=alone.id)
    return [original, worked_around, alone, green, parity]


def _stage_of(
    patch: Patch, case: Case, patched: Source, is_original_known: bool, launcher: Launcher
) -> list[ProofCase]:
    """Red, where it shows by the launcher, and green of a stage of a user's script; and parity of one process, once.

    A search is many fits, for each of which ddp_spawn would import everything again. What one process finds through ray
    is not compared: ray imports everything again for each trial.
    """
    if launcher == "spawn" and case.is_search and launcher not in case.launchers:
        return []

    def stage(source: Source, expect: Expectation) -> ProofCase:
        name = f"{patch.id}/{case.model}/{case.config}/{source}/{case.stage}"
        symptoms = patch.symptoms if expect == "wrong" else ()
        return ProofCase(name, patch.id, case, source, expect, forecast=None, symptoms=symptoms)

    fits = [stage(patched, "pass")]
    if is_original_known:
        shows = not case.original_hangs and (not case.launchers or launcher in case.launchers)
        fits = [*((stage("released", "wrong"),) if shows else ()), *fits]
    keeps_one_process = case.stage != "ray-search" and not patch.opt_in
    if is_original_known and launcher == "torchrun" and keeps_one_process:
        fit = partial(_fit, patch, case._replace(stage="fit", unused_parameters=()), strategy="single-process")
        alone = fit("released")
        fits += [alone, fit(patched, like=alone.id)]
    return fits


def _fit(
    patch: Patch, case: Case, source: Source, strategy: Strategy = "strict-ddp", like: Optional[str] = None
) -> ProofCase:
    """A fit of a patch's case: refused by strict DDP where the source has unused parameters, else passing."""
    claimed = patch.unused_parameters if case.unused_parameters is None else case.unused_parameters
    has_unused = source == "released" and case.unused_parameters != ()
    return ProofCase(
        id=f"{patch.id}/{case.model}/{case.config}/{source}/{strategy}",
        patch=patch.id,
        case=case,
        source=source,
        expect="unused-parameters" if has_unused and strategy == "strict-ddp" else "pass",
        unused_parameters=claimed,
        strategy=strategy,
        has_unused=has_unused,
        like=like,
    )


def _controls(fits: Sequence[ProofCase], control: Case) -> list[ProofCase]:
    """The control on every source that is trained; where there are two, the second must end like the first."""
    sources = sorted({fit.source for fit in fits}, key=get_args(Source).index)
    names = [f"control/{control.model}/{source}" for source in sources]
    like = [None, *names[:1] * (len(names) - 1)]
    return [
        ProofCase(name, None, control, source, "pass", like=other) for name, source, other in zip(names, sources, like)
    ]


def _journeys(patched: Source, version: str) -> list[ProofCase]:
    """The stages of an ordinary script of each kind of model that the release has."""
    return [
        ProofCase(f"journey/{model.model}/{patched}/{stage}", None, case, patched, "pass", forecast=None)
        for model in TRAVELLERS
        if model.is_possible_in(version)
        for stage in JOURNEY
        for case in [model._replace(config="journey", stage=stage)]
    ]


def timeout_for(agenda: Agenda) -> float:
    """Seconds that are enough for all fits of an agenda on a slow machine, so that only what hangs is ended."""
    return STARTING_SECONDS + SECONDS_A_FIT * len(agenda.cases)


def run_agenda(
    agenda: Agenda, install: Install, options: RunOptions, on_event: Callable[[ProofEvent], None]
) -> ProofReport:
    """Trains all cases of the agenda. Raises what `run_proof` raises."""
    # On several nodes the trials of the released source hang
    is_one_node = options.nodes.nnodes == 1
    cases = [fit for fit in agenda.cases if is_one_node or (fit.case.stage, fit.source) != ("ray-search", "released")]
    if not cases:
        return ProofReport(None, None, None, 0.0, (), coverage=agenda.coverage)
    with temporary_folder() as folder:
        trees = {name: build_source(install, files, folder / name) for name, files in agenda.trees.items()}
        trees["installed"] = install.tree
        report = run_proof(install.python, cases, trees, options, install.extra_path, on_event)
    return replace(report, coverage=agenda.coverage)
