"""Which fits prove an install, and the run of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Optional, get_args

from nfpatch.catalog import Case, Catalog, Patch, Selection
from nfpatch.engine.launch import temporary_folder
from nfpatch.engine.sources import Source, Tree, build_source, check_not_interrupted, patched_tree
from nfpatch.errors import RefusedError
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, PatchStatus
from nfpatch.patching.plan import original_with, originals_of, plan_apply, plan_partial
from nfpatch.patching.selection import Choice, choice_for_apply, is_applied, is_selected
from nfpatch.proof.runner import Coverage, ProofEvent, ProofReport, RunOptions, run_proof
from nfpatch.proof.verdict import Expectation, Launcher, ProofCase, Strategy

# NHITS trains under DDP: if it fails, the machine is the cause, not the patch. In 1.1.0 it has an unused output layer
# itself with losses of several outputs.
TINY = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
CONTROLS = (
    Case(model="NHITS", config="MQLoss", loss="MQLoss", options=TINY, releases=">=1.2"),
    Case(model="NHITS", config="MAE", loss="MAE", options=TINY, releases="<1.2"),
)
# An ordinary script for each kind of model, stage by stage, with the patched source. Stages that fail in a single
# process too, as `predict_insample` of a multivariate model does, are ignored.
TRAVELLERS = (
    CONTROLS[1]._replace(releases=""),
    Case("GRU", "MAE", options={"encoder_hidden_size": 8, "decoder_hidden_size": 8}, releases=">=1.1"),
    Case("TFT", "MAE", options={"hidden_size": 4, "n_head": 1}),
    Case("MLPMultivariate", "MAE", options={"hidden_size": 8}, releases=">=1.7.1"),
)
JOURNEY = ("validate", "predict", "insample", "cross-validation", "save", "load", "refit")
# Time limits in seconds, for the start and for each fit. An idle machine needs a tenth of them.
STARTING_SECONDS, SECONDS_A_FIT = 300.0, 30.0


@dataclass(frozen=True)
class ProofRequest:
    """What is to be proved, and how.

    `source` is compared with the released one: "installed", or "patched", which is computed as by `apply` with
    `allow_modified`, `force` and `keep_going`. If it is "released", only that one is run, to show its bugs. `thorough`
    adds the cases that take longer and, if nothing was named, the journeys. Each launcher trains all cases.
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
        """The source that is compared with the released one."""
        return "patched" if self.is_computed else "installed"


@dataclass(frozen=True)
class Agenda:
    """The cases of a proof, their sources, and what they do not cover.

    `trees` are the files, by path, in which the source trees of these names differ from the installed one. `rewritten`
    has the original and the patched bytes of each file, by path, in which they differ. None stands for no file.
    """

    cases: tuple[ProofCase, ...]
    trees: Mapping[str, Tree]
    coverage: Coverage = field(default_factory=Coverage)
    rewritten: Mapping[str, tuple[Optional[bytes], Optional[bytes]]] = field(default_factory=dict)


def agenda_for(state: InstallState, request: ProofRequest) -> Agenda:
    """The fits that prove those of the selected patches that are applied, or that `apply` would apply.

    A patch named by its id is proved in any state. Both sources of a case have the patches that it requires
    (`Case.requires`); if a source lacks one, the case gets a tree of its own. Raises RefusedError if the patched source
    cannot be computed, or if a killed run left the install half done.
    """
    check_not_interrupted(state)
    version, selection, patched = state.install.version, request.selection, request.patched
    originals = originals_of(state)
    choice = choice_for_apply(state, selection) if request.is_computed else Choice(())
    chosen = choice.patches
    if request.keep_going:
        chosen = plan_partial(state, chosen, request.allow_modified, request.force).patches
    wanted = plan_apply(state, chosen, request.allow_modified) if request.is_computed else {}
    changes = patched_tree(state, wanted, request.allow_modified, request.force)
    applied = {patch.id for patch in state.catalog.patches if is_applied(state, state.status_of(patch))}
    carried = applied.union(*wanted.values())
    selected = {patch.id for patch in selection.patches}.union(choice.brought_along)
    subjects = [
        state.status_of(patch)
        for patch in state.catalog.patches
        if patch.id in selected and patch.id in carried | selection.ids
    ]
    control = next(control for control in CONTROLS if control.is_possible_in(version))
    fits: list[ProofCase] = []
    for launcher in dict.fromkeys(request.launchers):
        own = [
            fit
            for status in subjects
            if _has_its_files(state, status)
            for case in _cases_of(status.patch, launcher, version, request)
            for fit in _fits_of(status.patch, case, patched, _is_original_known(state, status, wanted), launcher)
        ]
        own += _controls(own, control)
        if request.thorough and selection.is_default and launcher != "spark":
            own += _journeys(patched, version)
        fits += [_started_by(launcher, fit) for fit in own]
    if request.source == "released":
        fits = [fit for fit in fits if fit.source == "released" and fit.strategy == "strict-ddp"]
    fits = [_with_required(state, fit, fits, carried) for fit in fits]

    trees: dict[str, Tree] = {"released": originals, "patched": changes}
    problems: dict[str, str] = {}
    for fit in fits:
        if fit.requires and fit.tree not in (*trees, *problems):
            try:
                trees[fit.tree] = _tree_of(state, request, fit, wanted, originals)
            except RefusedError as error:
                problems[fit.tree] = f"{', '.join(fit.requires)} cannot be applied with it: {error}"
    blocked = {_configuration(fit): problems[fit.tree] for fit in fits if fit.tree in problems}
    fits = [fit for fit in fits if _configuration(fit) not in blocked]
    problems_of = {patch: problem for (patch, _, _), problem in blocked.items()}
    coverage = _coverage(state, request, subjects, fits, problems_of)
    pairs = {file: (originals.get(file, now), changes.get(file, now)) for file, now in state.contents.items()}
    rewritten = {file: (old, new) for file, (old, new) in pairs.items() if old != new}
    return Agenda(tuple(fits), trees, coverage, rewritten)


def _configuration(fit: ProofCase) -> tuple[Optional[str], str, str]:
    return fit.patch, fit.case.model, fit.case.config


def _coverage(
    state: InstallState,
    request: ProofRequest,
    subjects: Sequence[PatchStatus],
    fits: Sequence[ProofCase],
    problems: Mapping[Optional[str], str],
) -> Coverage:
    """Which patches these fits do not show: of the subjects, and of those that are needed, selected and not applied."""
    selection = request.selection
    shown = {fit.patch for fit in fits}
    considered = {status.patch.id for status in subjects}
    unproved: dict[str, str] = {}
    not_needed: dict[str, str] = {}
    missing = []
    for patch in state.catalog.patches:
        status = state.status_of(patch)
        if patch.id in selection.skipped or (patch.id in shown and request.source != "released"):
            continue
        if patch.id in shown:
            unproved[patch.id] = "only the released source was run"
            continue
        if patch.id in considered and status.state == "not-needed":
            not_needed[patch.id] = status.reason
        elif patch.id in considered:
            unproved[patch.id] = problems.get(patch.id) or _why_unproved(state, status, request)
        elif status.state != "not-needed" and patch in selection.patches and is_selected(selection, patch):
            is_plain = status.state == "applicable"
            unproved[patch.id] = "it is needed and not applied" if is_plain else f"{status.state}: {status.reason}"
        if patch.id in unproved and patch.id in selection.ids:
            missing.append(patch.id)
    return Coverage(unproved, tuple(missing), not_needed, selection.skipped)


def _why_unproved(state: InstallState, status: PatchStatus, request: ProofRequest) -> str:
    """Why no fit shows a patch: it has none, or only with other options."""
    patch, version = status.patch, state.install.version
    if not patch.cases:
        return patch.why_no_cases or "it has no cases"
    if not _has_its_files(state, status):
        return "a file that it rewrites is missing"
    by_launcher = {f"--launcher {name}": replace(request, launchers=(name,)) for name in get_args(Launcher)}
    others = {
        "--thorough": replace(request, thorough=True),
        **by_launcher,
        **{f"{options} --thorough": replace(other, thorough=True) for options, other in by_launcher.items()},
    }
    for options, other in others.items():
        if any(
            _fits_of(patch, case, request.patched, True, launcher)
            for launcher in other.launchers
            for case in _cases_of(patch, launcher, version, other)
        ):
            return f"it takes {options}"
    return f"none of its cases can be trained by neuralforecast {version}"


def _cases_of(patch: Patch, launcher: Launcher, version: str, request: ProofRequest) -> list[Case]:
    """The cases of a patch that this launcher trains; the first thorough one if there are no others.

    A search through a real ray takes longer than all other cases together, so it requires --thorough or the patch's id.
    """
    is_asked_for = request.thorough or patch.id in request.selection.ids
    cases = [
        case
        for case in patch.cases
        if case.is_possible_in(version)
        if _is_for(launcher, case) and (launcher != "spark" or case.launchers or is_asked_for)
        if case.stage != "ray-search" or is_asked_for
    ]
    return cases if request.thorough else [case for case in cases if not case.thorough] or cases[:1]


def _with_required(
    state: InstallState, fit: ProofCase, fits: Sequence[ProofCase], carried: AbstractSet[str]
) -> ProofCase:
    """The fit with the patches that its case requires and its source lacks.

    Opt-in patches, which change training, are on both sides of a comparison. All ranks make the forecasts if the source
    has all patches for that.
    """
    catalog = state.catalog
    brought = catalog.select([*catalog.with_required(fit.case.requires)])
    required = {patch.id for patch in brought if state.status_of(patch).state != "not-needed"}
    if fit.source == "released":
        if any(other.like == fit.id for other in fits):
            required |= {patch.id for patch in catalog.patches if patch.opt_in and patch.id in carried}
        required.discard(str(fit.patch))
        return replace(fit, requires=tuple(sorted(required)), symptoms=_symptoms_without(catalog, fit, required))
    missing = required - carried
    asks_all_ranks = fit.strategy == "strict-ddp" and fit.forecast is not None
    is_together = asks_all_ranks and _can_predict_on_all_ranks(state, carried | missing, fit.launcher)
    return replace(fit, requires=tuple(sorted(missing)), forecast="together" if is_together else fit.forecast)


def _symptoms_without(catalog: Catalog, fit: ProofCase, required: AbstractSet[str]) -> tuple[str, ...]:
    """The symptoms that a released source may have: of the patch that it lacks, and of those that this one requires."""
    if fit.patch is None or fit.expect != "wrong":
        return ()
    missing = catalog.with_required([fit.patch]) - required
    return tuple(words for patch in catalog.select([*missing]) for words in patch.symptoms)


def _tree_of(
    state: InstallState, request: ProofRequest, fit: ProofCase, wanted: Mapping[str, frozenset[str]], originals: Tree
) -> Tree:
    """The source of a fit, with the patches that its case requires."""
    if fit.source == "released":
        return {**originals, **original_with(state, frozenset(fit.requires), request.allow_modified)}
    sets = dict(wanted)
    for patch in state.catalog.select(fit.requires):
        for file in state.variant_of(patch).files:
            sets[file] = sets.get(file, state.ledger.patches_of(file)) | {patch.id}
    return patched_tree(state, sets, request.allow_modified, request.force)


def _started_by(launcher: Launcher, fit: ProofCase) -> ProofCase:
    """The fit with this launcher, and an id that has it."""
    if launcher == "torchrun":
        return fit
    # On Spark the losses are those of whatever series the first rank got
    like = None if fit.like is None or launcher == "spark" else f"{fit.like}/{launcher}"
    return replace(fit, id=f"{fit.id}/{launcher}", like=like, launcher=launcher)


def _is_for(launcher: Launcher, case: Case) -> bool:
    """Whether this launcher can train the case.

    Spark has cases of its own. It also trains fits of one model that require no other patch; `_cases_of` leaves these
    out unless they are asked for, as each of them imports everything again.
    """
    if launcher != "spark":
        return case.launchers != ("spark",)
    is_plain_fit = case.stage == "fit" and not case.is_search and not case.requires
    return launcher in case.launchers or is_plain_fit


def _can_predict_on_all_ranks(state: InstallState, carried: AbstractSet[str], launcher: Launcher) -> bool:
    """Whether a source with these patches has all that are needed to predict on several processes."""
    return all(
        patch.id in carried or patch.opt_in or state.status_of(patch).state == "not-needed"
        for patch in state.catalog.patches
        if any(case.stage == "predict" and _is_for(launcher, case) for case in patch.cases)
    )


def _has_its_files(state: InstallState, status: PatchStatus) -> bool:
    """Whether the files that the patch rewrites exist; if it rewrites none here, any that it rewrites elsewhere."""
    existing = {file for file in status.patch.files if state.contents[file] is not None}
    return existing.issuperset(status.files) if status.files else bool(existing)


def _is_original_known(state: InstallState, status: PatchStatus, wanted: Mapping[str, frozenset[str]]) -> bool:
    """Whether the source without this patch is known: it is installed, or nfpatch has kept it."""
    return status.state in ("applicable", "opt-in") or any(
        status.patch.id in wanted.get(file, frozenset()) | state.ledger.patches_of(file)
        for file in {*wanted, *status.files}
    )


def _fits_of(patch: Patch, case: Case, patched: Source, is_original_known: bool, launcher: Launcher) -> list[ProofCase]:
    """What fails with the released source trains with the patched one, and everything else stays the same.

    A model that DDP refuses is compared in two ways in which it trains all the same; only with torchrun, as the weights
    do not depend on the launcher. A search is not compared, because it creates its models itself.
    """
    if case.stage != "fit":
        return _stage_of(patch, case, patched, is_original_known, launcher)
    if launcher == "spawn":  # it would import everything again for each of these many fits
        return []
    fit = partial(_fit, patch, case)
    if not is_original_known:
        return [fit(patched)]
    original = fit("released")
    if case.is_search or launcher != "torchrun":
        return [original, fit(patched)]
    if not original.has_unused:
        return [original, fit(patched, like=original.id)]
    worked_around, alone = fit("released", "find-unused-ddp"), fit("released", "single-process")
    green, parity = fit(patched, like=worked_around.id), fit(patched, "single-process", like=alone.id)
    return [original, worked_around, alone, green, parity]


def _stage_of(
    patch: Patch, case: Case, patched: Source, is_original_known: bool, launcher: Launcher
) -> list[ProofCase]:
    """A stage of a user's script with the released source, if this launcher shows the bug, and with the patched one.

    With torchrun also a fit of one process with both, which must stay the same; except for searches through ray, which
    imports everything again for each trial. For the same reason ddp_spawn runs no search.
    """
    if launcher == "spawn" and case.is_search and launcher not in case.launchers:
        return []

    def stage(source: Source, expect: Expectation) -> ProofCase:
        name = f"{patch.id}/{case.model}/{case.config}/{source}/{case.stage}"
        return ProofCase(name, patch.id, case, source, expect, forecast=None)

    fits = [stage(patched, "pass")]
    if not is_original_known:
        return fits
    if not case.original_hangs and (not case.launchers or launcher in case.launchers):
        fits.insert(0, stage("released", "wrong"))
    if launcher == "torchrun" and case.stage != "ray-search" and not patch.opt_in:
        fit = partial(_fit, patch, case._replace(stage="fit", unused_parameters=()), strategy="single-process")
        alone = fit("released")
        fits += [alone, fit(patched, like=alone.id)]
    return fits


def _fit(
    patch: Patch, case: Case, source: Source, strategy: Strategy = "strict-ddp", like: Optional[str] = None
) -> ProofCase:
    """A fit of a patch's case: refused by strict DDP if the source has unused parameters, else passing."""
    has_unused = source == "released" and case.unused_parameters != ()
    return ProofCase(
        id=f"{patch.id}/{case.model}/{case.config}/{source}/{strategy}",
        patch=patch.id,
        case=case,
        source=source,
        expect="unused-parameters" if has_unused and strategy == "strict-ddp" else "pass",
        unused_parameters=patch.unused_parameters if case.unused_parameters is None else case.unused_parameters,
        strategy=strategy,
        has_unused=has_unused,
        like=like,
    )


def _controls(fits: Sequence[ProofCase], control: Case) -> list[ProofCase]:
    """The control with every source of these fits, each compared with the first."""
    controls: list[ProofCase] = []
    for source in sorted({fit.source for fit in fits}, key=get_args(Source).index):
        like = controls[0].id if controls else None
        controls.append(ProofCase(f"control/{control.model}/{source}", None, control, source, "pass", like=like))
    return controls


def _journeys(patched: Source, version: str) -> list[ProofCase]:
    """The stages of an ordinary script for each kind of model that the release has."""
    return [
        ProofCase(
            id=f"journey/{model.model}/{patched}/{stage}",
            patch=None,
            case=model._replace(config="journey", stage=stage),
            source=patched,
            expect="pass",
            forecast=None,
        )
        for model in TRAVELLERS
        if model.is_possible_in(version)
        for stage in JOURNEY
    ]


def timeout_for(agenda: Agenda) -> float:
    """Seconds that are enough for all fits of an agenda on a slow machine, so that only a hang reaches it."""
    return STARTING_SECONDS + SECONDS_A_FIT * len(agenda.cases)


def run_agenda(
    agenda: Agenda, install: Install, options: RunOptions, on_event: Callable[[ProofEvent], None]
) -> ProofReport:
    """Trains all cases of the agenda. Raises what `run_proof` raises."""
    cases: Sequence[ProofCase] = agenda.cases
    if options.nodes.nnodes > 1:  # there the trials of the released source hang
        cases = [fit for fit in cases if (fit.case.stage, fit.source) != ("ray-search", "released")]
    if not cases:
        return ProofReport(None, None, None, 0.0, (), coverage=agenda.coverage)
    with temporary_folder() as folder:
        trees = {name: build_source(install, files, folder / name) for name, files in agenda.trees.items()}
        trees["installed"] = install.tree
        report = run_proof(install.python, cases, trees, options, install.extra_path, on_event)
    return replace(report, coverage=agenda.coverage)
