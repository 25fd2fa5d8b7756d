"""What the reports of all ranks on one case amount to. Pure: no processes, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from nfpatch.catalog import Case

Source = Literal["original", "installed", "preview"]
Expectation = Literal["unused-parameters", "pass"]
Outcome = Literal["pass", "unused-parameters", "error", "timeout"]

# DDP refuses unused parameters at the second step: a fit of one step proves nothing.
FEWEST_STEPS = 2


@dataclass(frozen=True)
class ProofCase:
    """One fit of a proof and what it must come to.

    `patch` is None for a control. `dead_parameters` are fnmatch patterns: where `expect` is "unused-parameters", they
    and the parameters that got no gradient must match each other exactly.
    """

    id: str
    patch: str | None
    case: Case
    source: Source
    expect: Expectation
    dead_parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """What one rank reports of one case. The worker's `no_evidence` tells the meaning of the fields."""

    outcome: Outcome
    detail: str
    seconds: float
    world_size: int | None
    backend: str | None
    steps: int
    finite_loss: bool
    unused: tuple[str, ...]
    unused_last: tuple[str, ...]
    unused_by_torch: tuple[str, ...] | None
    parameters: int | None
    digest: str | None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Fit:
        """The fit that a worker's event "finished" describes."""
        named = event["unused_by_torch"]
        return cls(
            outcome=event["outcome"],
            detail=event["detail"],
            seconds=event["seconds"],
            world_size=event["world_size"],
            backend=event["backend"],
            steps=event["steps"],
            finite_loss=event["finite_loss"],
            unused=tuple(event["unused"]),
            unused_last=tuple(event["unused_last"]),
            unused_by_torch=None if named is None else tuple(named),
            parameters=event["parameters"],
            digest=event["digest"],
        )


@dataclass(frozen=True)
class CaseResult:
    """What a case came to, and the evidence for it.

    `seconds` is the slowest rank's. `world_size` and `backend` are what torch reported during the training, `steps`
    the optimizer steps that every rank took; they are None where no rank got that far. `equal_weights` tells whether
    all ranks ended with bit-equal parameters, and is None for a fit that did not end well.
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

    def to_json(self) -> dict[str, object]:
        """The result as a member of `cases` in the JSON of `nfpatch verify`."""
        return {**asdict(self), "unused_parameters": list(self.unused_parameters), "seconds": round(self.seconds, 3)}


def result_without_fits(case: ProofCase, outcome: Outcome, detail: str) -> CaseResult:
    """The result of a case that not all ranks have finished."""
    return _result(case, (), outcome, ok=False, detail=detail)


def result_of_fits(case: ProofCase, fits: Sequence[Fit], world_size: int, backend: str) -> CaseResult:
    """The result of a case that all ranks have finished; `world_size` and `backend` are what was asked for."""
    error = _errors(fits) or _why_not_distributed(fits, world_size, backend)
    if error is not None:
        return _result(case, fits, "error", ok=False, detail=error)

    unused = _unused_parameters(fits)
    if unused or any(fit.outcome == "unused-parameters" for fit in fits):
        if case.expect == "pass":
            detail = f"without a gradient: {', '.join(unused) or fits[0].detail}"
        else:
            detail = _why_not_refused(fits) or difference(unused, case.dead_parameters)
        return _result(case, fits, "unused-parameters", ok=not detail, detail=detail)

    why_not = _why_not_trained(fits)
    if why_not is not None:
        return _result(case, fits, "error", ok=False, detail=why_not)
    detail = "" if case.expect == "pass" else "every parameter got a gradient, and DDP had no complaint"
    return _result(case, fits, "pass", ok=case.expect == "pass", detail=detail)


def difference(names: Sequence[str], patterns: Sequence[str]) -> str:
    """What keeps names and patterns from matching each other exactly, in words; empty where nothing does."""
    too_many = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    missing = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    complaints = []
    if too_many:
        complaints.append(f"without a gradient, but not claimed by the patch: {', '.join(too_many)}")
    if missing:
        complaints.append(f"claimed by the patch, but not without a gradient: {', '.join(missing)}")
    return "; ".join(complaints)


def _errors(fits: Sequence[Fit]) -> str | None:
    """What the ranks failed with, the first to fail first, as the others may have failed only because of it."""
    failed = sorted((fit.seconds, rank, fit.detail) for rank, fit in enumerate(fits) if fit.outcome == "error")
    told: dict[str, str] = {}
    for _, rank, detail in failed:
        told.setdefault(detail, f"rank {rank}: {detail}")
    return "\n".join(told.values()) or None


def _unused_parameters(fits: Sequence[Fit]) -> tuple[str, ...]:
    """The parameters that got no gradient in some step on some rank, in the model's order."""
    return tuple(dict.fromkeys(name for fit in fits for name in fit.unused))


def _why_not_distributed(fits: Sequence[Fit], world_size: int, backend: str) -> str | None:
    """What shows that a fit was not the DDP training that was asked for; None where it was."""
    for rank, fit in enumerate(fits):
        if (fit.world_size, fit.backend) != (world_size, backend):
            return (
                f"rank {rank}: torch reports world size {fit.world_size} and backend {fit.backend} "
                f"where {world_size} and {backend} were asked for"
            )
    return None


def _why_not_refused(fits: Sequence[Fit]) -> str | None:
    """What keeps missing gradients from being DDP's refusal of them; None where nothing does."""
    for rank, fit in enumerate(fits):
        if fit.outcome != "unused-parameters":
            return f"rank {rank}: parameters got no gradient, but DDP did not refuse them"
        if fit.unused_by_torch is not None and set(fit.unused_by_torch) != set(fit.unused_last):
            return f"rank {rank}: torch names other parameters than were observed: {', '.join(fit.unused_by_torch)}"
    return None


def _why_not_trained(fits: Sequence[Fit]) -> str | None:
    """What keeps fits that went through from being a proof; None where nothing does."""
    for rank, fit in enumerate(fits):
        if fit.steps < FEWEST_STEPS:
            return f"rank {rank}: {fit.steps} training steps, which proves nothing; at least {FEWEST_STEPS} are needed"
        if not fit.finite_loss:
            return f"rank {rank}: the loss is not finite"
    if not _equal_weights(fits):
        return "the ranks ended with different weights"
    return None


def _equal_weights(fits: Sequence[Fit]) -> bool:
    """Whether all ranks ended with the same bits in their parameters."""
    return len({fit.digest for fit in fits}) == 1 and all(fit.digest for fit in fits)


def _result(case: ProofCase, fits: Sequence[Fit], outcome: Outcome, ok: bool, detail: str) -> CaseResult:
    """A result with the evidence that the fits give."""
    trained = [fit for fit in fits if fit.world_size is not None]
    return CaseResult(
        id=case.id,
        patch=case.patch,
        model=case.case.model,
        config=case.case.config,
        source=case.source,
        expect=case.expect,
        outcome=outcome,
        ok=ok,
        unused_parameters=_unused_parameters(fits),
        seconds=max((fit.seconds for fit in fits), default=0.0),
        detail=detail,
        world_size=trained[0].world_size if trained else None,
        backend=trained[0].backend if trained else None,
        steps=min((fit.steps for fit in trained), default=None),
        finite_loss=all(fit.finite_loss for fit in trained) if trained else None,
        equal_weights=_equal_weights(fits) if outcome == "pass" else None,
        parameters=trained[0].parameters if trained else None,
    )
