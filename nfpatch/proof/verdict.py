"""The result of a case, from what its ranks have recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Literal

from nfpatch.catalog import Case
from nfpatch.engine.checks import (
    CHECKS,
    errors,
    first_finding,
    reference,
    running_statistics,
    series_order,
    validation_loss,
)
from nfpatch.engine.checks import world_size as world_size_check
from nfpatch.engine.checks.errors import errors_in_full, failures_of
from nfpatch.engine.facts import Call, CallFacts, Outcome
from nfpatch.engine.sources import Source

Expectation = Literal["unused-parameters", "pass", "wrong"]
Strategy = Literal["strict-ddp", "find-unused-ddp", "single-process"]
Launcher = Literal["torchrun", "script", "spawn", "fork", "spark"]

# Stages compare the validation loss themselves. A plain fit shows the bug of one patch, and may have those of others.
CHECKS_OF_STAGES = tuple(check for check in CHECKS if check is not validation_loss)
CHECKS_OF_FITS = tuple(check for check in CHECKS_OF_STAGES if check not in (running_statistics, series_order))


@dataclass(frozen=True)
class ProofCase:
    """One fit of a proof and its expected result.

    `patch` is None for a control. `unused_parameters` are fnmatch patterns. If the source `has_unused`, they and the
    parameters without a gradient must match each other exactly; strict DDP refuses such a model, the other strategies
    train it. `like` is the id of the case, of another source, with whose initial weights this one starts and whose
    final weights and forecasts it must have, bit for bit. A case with a stage of a user's script that is expected to be
    "wrong" may also fail with an error that contains one of the `symptoms`.

    `requires` are patches without which the model does not train; the source gets them in a tree of its own. Forecasts
    are made by all ranks "together", as a user does, or by one process "alone".
    """

    id: str
    patch: str | None
    case: Case
    source: Source
    expect: Expectation
    unused_parameters: tuple[str, ...] = ()
    strategy: Strategy = "strict-ddp"
    has_unused: bool = False
    like: str | None = None
    forecast: Literal["together", "alone", None] = "alone"
    symptoms: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    launcher: Launcher = "torchrun"

    @property
    def tree(self) -> str:
        """The name of the source tree."""
        return "+".join([self.source, *self.requires])


@dataclass(frozen=True)
class CaseResult:
    """The result of a case, and the evidence for it.

    `seconds` is the slowest rank's. `world_size` and `backend` are what torch reported during the training, `steps` the
    optimizer steps that every rank took; they are None if no rank trained. `equal_weights` says whether the final
    parameters of all ranks are bit-identical; it is None if the fit failed. `matches_reference` says whether losses,
    weights and forecasts are those of the case `like`, or the result of a stage that of a single process, bit for bit;
    it is None if nothing was compared.

    The case was `refused` if neuralforecast itself raised the error, and `refused_alone` if a single process fails too,
    which is ignored for a case without a patch. It `is_finished` if the ranks have reported its result; otherwise it
    was not reached, or a process crashed.
    """

    id: str
    patch: str | None
    model: str
    config: str
    source: Source
    expect: Expectation
    outcome: Outcome
    ok: bool
    unused_parameters: tuple[str, ...]
    seconds: float
    detail: str
    world_size: int | None = None
    backend: str | None = None
    steps: int | None = None
    finite_loss: bool | None = None
    equal_weights: bool | None = None
    parameters: int | None = None
    strategy: Strategy = "strict-ddp"
    forecast_shape: tuple[int, ...] | None = None
    finite_forecasts: bool | None = None
    like: str | None = None
    matches_reference: bool | None = None
    refused: bool = False
    refused_alone: bool = False
    is_finished: bool = True
    stage: str = "fit"
    launcher: Launcher = "torchrun"
    requires: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The result as a member of `cases` in the JSON of `nfpatch verify`."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def result_without_calls(case: ProofCase, outcome: Outcome, detail: str) -> CaseResult:
    """The result of a case that not all ranks have finished."""
    return _result(case, (), outcome, ok=False, detail=detail)


def result_of_calls(case: ProofCase, calls: Sequence[Call], world_size: int, backend: str) -> CaseResult:
    """The result of a case that all ranks have finished; `world_size` and `backend` are the launch's."""
    is_alone = case.strategy == "single-process"
    facts = CallFacts(
        ranks=dict(enumerate(calls)),
        world_size=1 if is_alone else world_size,
        is_case=True,
        backend=None if is_alone else backend,
    )
    if case.case.stage != "fit":
        return _result_of_stage(case, calls, facts)
    failed = errors.find(facts) or world_size_check.find(facts)
    if failed is not None:
        return _result(case, calls, "error", ok=False, detail="\n".join(failed.errors) or failed.detail)

    unused = facts.unused_parameters
    refusals = [failure.message for _, failure in failures_of(facts)]
    if refusals or (unused and not (case.has_unused and case.expect == "pass")):
        if case.expect == "pass":
            detail = f"unused: {', '.join(unused or refusals[:1])}"
        else:
            detail = _why_not_refused(facts) or difference(unused, case.unused_parameters)
        return _result(case, calls, "unused-parameters", ok=not detail, detail=detail)

    found = first_finding(facts, CHECKS_OF_FITS)
    why_not = found.detail if found is not None else _why_not_alike(case, calls)
    if why_not is not None:
        return _result(case, calls, "error", ok=False, detail=why_not)
    if case.expect != "pass":
        detail = "there are no unused parameters, and DDP did not raise"
    else:
        detail = difference(unused, case.unused_parameters) if case.has_unused else ""
    return _result(case, calls, "pass", ok=not detail, detail=detail)


def _result_of_stage(case: ProofCase, calls: Sequence[Call], facts: CallFacts) -> CaseResult:
    """The result of a case with a stage of a user's script; each rank is compared with a single process."""
    differences = reference.find(facts)
    failures = failures_of(facts)
    words = "\n".join([*errors_in_full(failures), *(() if differences is None else [differences.detail])])
    if case.patch is None and _is_refused_alone(calls):
        return _result(case, calls, "error", ok=True, detail=words)
    if failures:
        outcome: Outcome = "unused-parameters" if all(each.is_refusal for _, each in failures) else "error"
        is_the_bug = case.expect == "wrong" and any(symptom in words for symptom in case.symptoms)
        return _result(case, calls, outcome, ok=is_the_bug, detail=words)
    # On Spark, neuralforecast itself decides how many processes train
    is_wrong_number = case.launcher == "spark" and case.expect == "wrong" and differences is not None
    found = differences if is_wrong_number else first_finding(facts, CHECKS_OF_STAGES)
    if found is None:
        detail = f"the bug does not show on {facts.world_size} ranks: each matches the single-process reference"
        detail = detail if case.expect == "wrong" else ""
        return _result(case, calls, "pass", ok=not detail, detail=detail)
    return _result(case, calls, found.outcome, ok=found.outcome == case.expect == "wrong", detail=found.detail)


def _is_refused_alone(calls: Sequence[Call]) -> bool:
    """Whether a single process fails too. The errors of the other ranks may be a consequence of that."""
    has_failed = [each.differences or (each.raised and not each.raised.is_refusal) for each in calls]
    return all(has_failed) and any(each.error for call in calls for each in call.references)


def difference(names: Sequence[str], patterns: Sequence[str]) -> str:
    """The names and patterns that do not match each other, as text; empty if all match."""
    too_many = [name for name in names if not _is_claimed(name, patterns)]
    missing = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    mismatches = []
    if too_many:
        hint = "if it handles them, add them to its `unused_parameters`"
        mismatches.append(f"unused, but not claimed by the patch: {', '.join(too_many)} ({hint})")
    if missing:
        mismatches.append(f"claimed by the patch, but not unused: {', '.join(missing)}")
    return "; ".join(mismatches)


def _why_not_refused(facts: CallFacts) -> str | None:
    """Why this is not DDP's refusal of the unused parameters; None if it is."""
    for rank, training in facts.trainings[0].items():
        if facts.ranks[rank].raised is None:
            return f"rank {rank}: there are unused parameters, but DDP did not refuse them"
        named = training.unused_by_torch
        if named is not None and set(named) != set(training.unused_last):
            return f"rank {rank}: torch names different parameters than were observed: {', '.join(named)}"
    return None


def _why_not_alike(case: ProofCase, calls: Sequence[Call]) -> str | None:
    """How fits differ from those that they must be equal to; None if they do not.

    With three or more ranks the last bits are ignored: they depend on the order in which DDP adds the gradients.
    """
    if case.like is None:
        return None
    is_bit_equal = case.strategy == "single-process" or len(calls) <= 2
    for rank, call in enumerate(calls):
        if call.comparison is None:
            return f"rank {rank}: was not compared with {case.like}"
        for what, names in (("removed", call.comparison.removed), ("frozen", call.comparison.frozen)):
            unclaimed = [name for name in names if not _is_claimed(name, case.unused_parameters)]
            if unclaimed:
                return f"rank {rank}: {what}, but not claimed by the patch: {', '.join(unclaimed)}"
        if is_bit_equal and not _is_alike(call):
            different = ", ".join(call.comparison.different) or "no weights, but the forecasts or losses"
            return (
                f"rank {rank}: the result differs from {case.like} by up to {call.comparison.largest:.3g}: {different}"
            )
    return None


def _is_alike(call: Call) -> bool:
    """Whether a fit has the losses, weights and forecasts of the one that it is compared with, bit for bit."""
    found = call.comparison
    return found is not None and not found.different and found.forecasts_equal and found.losses_equal


def _matches_reference(case: ProofCase, calls: Sequence[Call], outcome: Outcome) -> bool | None:
    if any(call.comparison is not None for call in calls):
        return all(map(_is_alike, calls))
    return outcome == "pass" if case.case.stage != "fit" and outcome in ("pass", "wrong") else None


def _is_claimed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _result(case: ProofCase, calls: Sequence[Call], outcome: Outcome, ok: bool, detail: str) -> CaseResult:
    trainings = [training for call in calls for training in call.trainings.values()]
    trained = [training for training in trainings if training.world_size is not None]
    forecasts = () if case.forecast is None or not calls or calls[0].returned is None else calls[0].returned.forecasts
    return CaseResult(
        id=case.id,
        patch=case.patch,
        model=case.case.model,
        config=case.case.config,
        source=case.source,
        expect=case.expect,
        outcome=outcome,
        ok=ok,
        unused_parameters=tuple(dict.fromkeys(name for training in trainings for name in training.unused)),
        seconds=max((call.end - call.begin for call in calls), default=0.0),
        detail=detail,
        world_size=trained[0].world_size if trained else None,
        backend=trained[0].backend if trained else None,
        steps=min((training.steps for training in trained), default=None),
        finite_loss=all(training.has_finite_loss for training in trained) if trained else None,
        equal_weights=len({training.weights for training in trained}) == 1 if outcome == "pass" else None,
        parameters=trained[0].parameters if trained else None,
        strategy=case.strategy,
        forecast_shape=forecasts[0].shape if forecasts else None,
        finite_forecasts=bool(forecasts) if outcome == "pass" else None,
        like=case.like,
        matches_reference=_matches_reference(case, calls, outcome),
        refused=outcome == "error" and any(call.raised and call.raised.by_neuralforecast for call in calls),
        refused_alone=_is_refused_alone(calls),
        is_finished=bool(calls),
        stage=case.case.stage,
        launcher=case.launcher,
        requires=case.requires,
    )
