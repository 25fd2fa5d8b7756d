"""What the events of all ranks amount to, call by call: what differs from one process, and which patch fixes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from nfpatch.catalog import Patch
from nfpatch.engine.checks import first_finding
from nfpatch.engine.facts import Answer, CallFacts, Failure, Finding, Outcome, RankFacts, Training, listed, shortened
from nfpatch.engine.logs import place_of
from nfpatch.engine.remedies import patches_for, patches_for_unused
from nfpatch.rehearsal.records import Call, Rank, Records
from nfpatch.target.outcomes import UNUSED_PARAMETERS_MESSAGES

# Of a training, what only the proof observes
_NOT_REPORTED = ("backend", "finite_loss", "batches")


@dataclass(frozen=True)
class Stage:
    """One call of the script and what came of it on all ranks.

    `ranks` has what became of it on each, in a word or two; `patches` are the ids of those that fix it and that
    the rehearsed source lacks, `notes` what is worth knowing and no fault. A remedy `is_sought` where it is a fault of
    several processes, and not the consequence of another.
    """

    call: str
    file: str
    line: int
    model: str
    outcome: Outcome
    detail: str
    ranks: tuple[str, ...]
    patches: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_sought: bool = False
    evidence: tuple[dict[str, Any], ...] = field(default=(), compare=False)

    @property
    def ok(self) -> bool:
        """Whether all ranks have what one process has."""
        return self.outcome == "pass"

    @property
    def place(self) -> str:
        """Where it stands in the script."""
        return f"{self.file.replace(chr(92), '/').rpartition('/')[2]}:{self.line}"

    def to_json(self) -> dict[str, object]:
        """An element of `stages` in the JSON of `nfpatch rehearse`."""
        return {
            "call": self.call,
            "file": self.file,
            "line": self.line,
            "model": self.model,
            "outcome": self.outcome,
            "ok": self.ok,
            "ranks": list(self.evidence),
            "detail": self.detail,
            "patches": list(self.patches),
            "notes": list(self.notes),
        }


def stages_of(records: Records, devices: int, missing: Sequence[Patch], ended: Optional[str]) -> list[Stage]:
    """The calls of a script in its order. `ended` says why its processes were ended by nfpatch, if they were."""
    return [_stage_of(records, facts, number, missing) for number, facts in facts_of(records, devices, ended).items()]


def facts_of(records: Records, devices: int, ended: Optional[str]) -> dict[int, CallFacts]:
    """What the checks look at, by the number of the call."""
    return {number: _facts_of_call(records, number, devices, ended) for number in records.numbers}


def _facts_of_call(records: Records, number: int, devices: int, ended: Optional[str]) -> CallFacts:
    ranks = {rank: records.ranks[rank] for rank in sorted(records.ranks)}
    calls = {rank: each.calls[number] for rank, each in ranks.items() if number in each.calls}
    first = next(iter(calls.values())).started
    trainings = records.trainings_of(number)
    references = [reference for call in calls.values() for reference in call.references]
    trained = (training.model for by_rank in trainings.values() for training in by_rank.values() if training.model)
    return CallFacts(
        name=first.name,
        ranks={rank: _facts_of_rank(records, each, calls.get(rank)) for rank, each in ranks.items()},
        trainings=trainings,
        world_size=devices,
        search=first.search,
        models=tuple(dict.fromkeys(first.models)) or tuple(dict.fromkeys(trained)),
        reference_losses={
            each.index: each.validation for each in references if each.index is not None and each.validation is not None
        },
        ended=ended,
    )


def _facts_of_rank(records: Records, rank: Rank, call: Optional[Call]) -> RankFacts:
    if call is None:
        return RankFacts(place=place_of(records.stack_of(rank)), failed_before=records.failure_of(rank.number))
    failure, returned = None, call.returned
    if call.raised is not None:
        event = call.raised.event
        is_refusal = any(words in event.error for words in UNUSED_PARAMETERS_MESSAGES)
        failure = Failure(event.error, event.places, call.raised.time, event.unused or (), is_refusal)
    frame = None if returned is None else returned.forecasts
    return RankFacts(
        name=call.name,
        line=call.started.line,
        has_returned=returned is not None,
        failure=failure,
        differences=tuple(each.differ for each in call.references if each.differ),
        answers=() if frame is None else (Answer(frame.digest, frame.rows, frame.nan),),
        weights=() if returned is None else returned.weights,
        chosen=() if returned is None else returned.chosen,
        written=call.written,
        place="" if call.is_over else place_of(records.stack_of(rank)),
    )


def _stage_of(records: Records, facts: CallFacts, number: int, missing: Sequence[Patch]) -> Stage:
    by_rank = {rank: records.ranks[rank].calls.get(number) for rank in facts.ranks}
    call = next(call for call in by_rank.values() if call is not None)
    finding = first_finding(facts)
    is_refused_alone = finding is not None and _is_refused_alone(by_rank, finding)
    is_sought = finding is not None and not is_refused_alone and not finding.is_consequence
    suffix = "; one process is refused as well" if is_refused_alone else ""
    return Stage(
        call=call.name,
        file=call.started.file,
        line=call.started.line,
        model=", ".join(facts.models),
        outcome="pass" if finding is None else finding.outcome,
        detail="" if finding is None else finding.detail + suffix,
        ranks=tuple(_word_for(each) for each in by_rank.values()),
        patches=patches_for(finding, facts.models, missing) if finding is not None and is_sought else (),
        notes=(*_unasked(by_rank), *_notes_of(facts.trainings, facts.models, missing)),
        is_sought=is_sought,
        evidence=tuple(_evidence_of(number, each, facts.trainings) for number, each in by_rank.items()),
    )


def _is_refused_alone(by_rank: dict[int, Optional[Call]], finding: Finding) -> bool:
    """Whether one process ends with the same error."""
    errors = [each.error for call in by_rank.values() if call is not None for each in call.references if each.error]
    return finding.outcome == "error" and any(words[:300] == finding.message[:300] for words in errors)


def _unasked(by_rank: dict[int, Optional[Call]]) -> Iterable[str]:
    """Why a call that returned was not compared with one process, if that was not possible."""
    for call in by_rank.values():
        if call is not None and call.raised is None:
            for words in dict.fromkeys(each.error for each in call.references if each.error):
                yield f"not held against one process, which ended with {shortened(words)}"


def _notes_of(
    trainings: Mapping[int, Mapping[int, Training]], models: Sequence[str], missing: Sequence[Patch]
) -> Iterable[str]:
    """What `find_unused_parameters=True` is good for in a call."""
    asked = [each for ranks in trainings.values() for each in ranks.values() if each.find_unused]
    if not asked:
        return
    unused = tuple(dict.fromkeys(name for each in asked for name in each.unused))
    if not unused:
        yield "find_unused_parameters=True is kept, and needless: every parameter gets a gradient"
        return
    patches = patches_for_unused(unused, models, missing)
    remedy = f"needless with {', '.join(patches)}" if patches else "no patch of the catalog is known for them"
    yield f"find_unused_parameters=True is kept, because of {listed(unused)}: {remedy}"


def _word_for(call: Optional[Call]) -> str:
    if call is None:
        return "-"
    if call.raised is not None:
        return call.raised.event.error.partition(":")[0]
    if call.returned is None:
        return "waits"
    frame = call.returned.forecasts
    return "returned" if frame is None else f"{frame.rows} rows"


def _evidence_of(rank: int, call: Optional[Call], trainings: Mapping[int, Mapping[int, Training]]) -> dict[str, Any]:
    """What a rank recorded of a call, for the JSON document."""
    own = [
        {name: value for name, value in asdict(ranks[rank]).items() if name not in _NOT_REPORTED}
        for ranks in trainings.values()
        if rank in ranks
    ]
    evidence: dict[str, Any] = {"rank": rank, "state": _word_for(call), "trainings": own}
    if call is not None:
        returned = {} if call.returned is None else asdict(call.returned)
        evidence["error"] = None if call.raised is None else call.raised.event.error
        evidence["written"] = sorted(call.written)
        evidence.update({name: returned.get(name) for name in ("forecasts", "chosen", "weights")})
    return evidence
