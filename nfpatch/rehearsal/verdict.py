"""Judges the events of all ranks call by call: differences from the single-process reference, and patches for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Optional

from nfpatch.catalog import Patch
from nfpatch.engine.checks import different_data, diverging_calls, first_finding, shared_files
from nfpatch.engine.facts import (
    NOT_CALLED,
    Call,
    CallFacts,
    Finding,
    Outcome,
    in_file,
    listed,
    shortened,
)
from nfpatch.engine.logs import place_of
from nfpatch.engine.records import Rank, Records, facts_of_call
from nfpatch.engine.remedies import patches_for, patches_for_unused
from nfpatch.rehearsal.divergence import decision_of
from nfpatch.target.events import MethodReplaced, Training

# Of a training, what the JSON document has
_REPORTED = ("model", "world_size", "find_unused", "steps", "losses", "validated", "unused", "weights")
# Of an exception, how many frames are shown for an issue
LAST_FRAMES = 6


@dataclass(frozen=True)
class Stage:
    """One call of the script and its result on all ranks.

    `ranks` has the state on each rank, in a word or two; `patches` are the ids of the patches that fix it and that
    the rehearsed source lacks, `notes` are remarks that are no findings. A remedy `is_sought` where the problem is
    one of several processes, and no consequence of another finding. `why` says why it matters, `remedy` what to change
    in the script; where neither that nor a patch is known, `observed` is for an issue. It `is_for_one_device` where
    the script keeps a training there, and `is_refused_alone` where one process raises the same error.
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
    why: str = ""
    remedy: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()
    is_for_one_device: bool = False
    is_refused_alone: bool = False
    is_sought: bool = False
    evidence: tuple[dict[str, Any], ...] = field(default=(), compare=False)

    @property
    def ok(self) -> bool:
        """Whether all ranks have what one process has."""
        return self.outcome == "pass"

    @property
    def place(self) -> str:
        """Where it stands in the script."""
        return in_file(self.file, self.line)

    def to_json(self) -> dict[str, object]:
        """An element of `stages` in the JSON of `nfpatch rehearse`."""
        return {
            "call": self.call,
            "file": self.file,
            "line": self.line,
            "model": self.model,
            "outcome": self.outcome,
            "ok": self.ok,
            "refused_alone": self.is_refused_alone,
            "ranks": list(self.evidence),
            "detail": self.detail,
            "why": self.why,
            "patches": list(self.patches),
            "remedy": list(self.remedy),
            "observed": list(self.observed),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Known:
    """What is known of the patches for a release.

    `missing` are those that the rehearsed source lacks, `useful` all that the release has a use for; `functions` are
    the functions that each changes, by its id, as in `RehearsalSpec`.
    """

    missing: Sequence[Patch]
    useful: Sequence[Patch] = ()
    functions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def patches_of(self, function: str) -> list[str]:
        """The ids of the patches that change this function."""
        return [patch.id for patch in self.useful if function in self.functions.get(patch.id, ())]


@dataclass(frozen=True)
class _Judged:
    """A call, what was found in it and what is known to fix that.

    It `is_handled` where the script catches an error that a single process raises too, and goes on, on every rank.
    """

    by_rank: Mapping[int, Optional[Call]]
    facts: CallFacts
    finding: Optional[Finding]
    refusal: str
    patches: tuple[str, ...]
    is_handled: bool = False

    @property
    def is_sought(self) -> bool:
        """Whether a remedy is sought."""
        return self.finding is not None and not self.refusal and not self.finding.is_consequence

    @property
    def misses_ranks(self) -> bool:
        """Whether ranks do not make the call because they failed before."""
        return self.finding is not None and self.finding.is_consequence and self.finding.outcome == "timeout"


def stages_of(records: Records, devices: int, known: Known, ended: Optional[str]) -> list[Stage]:
    """The calls of a script in its order. `ended` says why its processes were ended by nfpatch, if they were.

    What follows from a call in which the ranks part is no finding of its own: those calls are left out, or are good.
    """
    judged: list[_Judged] = []
    for row, facts in facts_of(records, devices, ended):
        judged.append(_judge(records, row, facts, known))
        if diverging_calls.diverges(facts):
            break
    kept = _without_missing_calls(list(_folded(judged)))
    replaced = dict.fromkeys(each for call in records.calls for each in call.replaced)
    useless = [each for each in replaced if any(known.patches_of(each.function))]
    blamed = {function for each in kept for function in _blamed(each, useless, known)}
    return [_stage_of(each, known, useless, blamed) for each in kept]


def facts_of(records: Records, devices: int, ended: Optional[str]) -> Iterator[tuple[Mapping[int, int], CallFacts]]:
    """What the checks look at, by call; with the number that it has on each rank."""
    ends: dict[int, int] = {}
    for row in records.aligned():
        ends.update(row)
        yield row, _facts_of_call(records, row, ends, devices, ended)


def _folded(judged: list[_Judged]) -> Iterator[_Judged]:
    """Merges what follows from arguments that differ between ranks into the call with them.

    What a patch fixes follows from data that differ only, and only where it is a result that differs. A finding on a
    call before which the ranks diverge is a consequence if there is an earlier one.
    """
    cause: Optional[int] = None
    for index, each in enumerate(judged):
        if cause is None and different_data.because_of_arguments(each.facts, "") is not None:
            cause = index
    followed = [
        index
        for index, each in enumerate(judged)
        if cause is not None and index >= cause and _may_follow(each, judged[cause].facts)
    ]
    has_finding = False
    for index, each in enumerate(judged):
        if followed and index == cause:
            first = judged[followed[0]]
            words = "" if first.finding is None else first.finding.detail.partition("\n")[0]
            where = "" if first is each else f" in line {first.facts.line}"
            found = different_data.because_of_arguments(each.facts, f"{words}{where}")
            assert found is not None
            each = replace(each, finding=found, patches=())
        elif index in followed:
            continue
        elif has_finding and each.finding is not None and diverging_calls.diverges(each.facts):
            each = replace(each, finding=replace(each.finding, is_consequence=True))
        has_finding = has_finding or each.is_sought
        yield each


def _without_missing_calls(judged: Sequence[_Judged]) -> list[_Judged]:
    """Merges a call that ranks miss because they failed before it into the finding on that failure."""
    kept: list[_Judged] = []
    cause, found = 0, None
    for each in judged:
        if found is None or each.finding is None or not each.misses_ranks:
            if each.is_sought:
                cause, found = len(kept), each.finding
            kept.append(each)
        elif "as a result" not in found.detail:
            line = next(rank.line for rank in each.facts.ranks.values() if rank.name)
            words = f"as a result: {each.facts.name} in line {line} is {each.finding.detail}"
            found = replace(found, detail=f"{found.detail}\n{words}")
            kept[cause] = replace(kept[cause], finding=found)
    return kept


def _may_follow(each: _Judged, cause: CallFacts) -> bool:
    """Whether the finding may be a consequence of arguments that differ between ranks in an earlier call."""
    found = each.finding
    if diverging_calls.diverges(each.facts):
        return False
    if each.patches and different_data.different_data(cause) is None:
        return False
    if each.patches and found is not None and (found.outcome != "wrong" or found.why == shared_files.WHY):
        return False
    if len(each.facts.ranks) > 1 and _is_same(each.facts):
        return False
    return (
        found is not None
        and each.is_sought
        and found.outcome != "unused-parameters"
        and found.why != different_data.WHY
    )


def _facts_of_call(
    records: Records, row: Mapping[int, int], ends: Mapping[int, int], devices: int, ended: Optional[str]
) -> CallFacts:
    ranks = {rank: records.ranks[rank] for rank in sorted(records.ranks)}
    calls = {rank: ranks[rank].calls[number] for rank, number in row.items()}
    facts = replace(
        facts_of_call(calls, records.trainings_of(row), devices),
        ranks={rank: _facts_of_rank(records, each, calls.get(rank), ends) for rank, each in ranks.items()},
        ended=ended,
    )
    if not diverging_calls.diverges(facts):
        return facts
    steps = {rank: each.started.steps for rank, each in facts.ranks.items()}
    return replace(facts, decision=decision_of(steps, written_by(ranks)))


def written_by(ranks: Mapping[int, Rank]) -> dict[int, dict[str, set[str]]]:
    """How each rank has changed files, in calls and outside of them."""
    found: dict[int, dict[str, set[str]]] = {}
    for number, rank in ranks.items():
        found[number] = {path: set(ways) for path, ways in rank.written.items()}
        for call in rank.calls.values():
            for path, ways in call.written.items():
                found[number].setdefault(path, set()).update(ways)
    return found


def _facts_of_rank(records: Records, rank: Rank, call: Optional[Call], ends: Mapping[int, int]) -> Call:
    if call is None:
        has_ended = rank.ended is not None and all(number <= ends.get(rank.number, -1) for number in rank.calls)
        return Call(
            replace(NOT_CALLED, steps=rank.ended.steps if rank.ended is not None and has_ended else ()),
            place=place_of(records.stack_of(rank)),
            failed_before=records.failure_of(rank.number),
            has_ended=has_ended,
            has_gone_on=has_ended or any(number > ends.get(rank.number, -1) for number in rank.calls),
            error=rank.ended.error if rank.ended is not None and has_ended else "",
        )
    return call if call.is_over else replace(call, place=place_of(records.stack_of(rank)))


def _judge(records: Records, row: Mapping[int, int], facts: CallFacts, known: Known) -> _Judged:
    by_rank = {rank: records.ranks[rank].calls[row[rank]] if rank in row else None for rank in facts.ranks}
    finding = first_finding(facts)
    refusal = "" if finding is None else _refusal_of_one_process(by_rank, finding)
    patches: tuple[str, ...] = ()
    if finding is not None and not refusal and not finding.is_consequence:
        patches = patches_for(finding, _classes_of(facts), known.missing)
    goes_on = all(number in row and _goes_on(rank, row[number]) for number, rank in records.ranks.items())
    return _Judged(by_rank, facts, finding, refusal, patches, is_handled=bool(refusal) and goes_on and _is_same(facts))


def _goes_on(rank: Rank, number: int) -> bool:
    """Whether the script goes on after a call: to another one, or to its end without an error."""
    return number < max(rank.calls) or (rank.ended is not None and not rank.ended.error)


def _is_same(facts: CallFacts) -> bool:
    """Whether all ranks raise the same error."""
    failures = [each.raised for each in facts.ranks.values()]
    return len({None if each is None else each.message for each in failures}) == 1 and failures[0] is not None


def _classes_of(facts: CallFacts) -> list[str]:
    """The models of a call, and the classes of neuralforecast that those of the user derive from."""
    return list(dict.fromkeys([*facts.models, *(base for each in facts.all_trainings for base in each.bases)]))


def _blamed(judged: _Judged, replaced: Sequence[MethodReplaced], known: Known) -> list[MethodReplaced]:
    """The replaced methods that are why a patch for a finding has no effect."""
    if judged.finding is None or not judged.is_sought:
        return []
    wanted = {*patches_for(judged.finding, _classes_of(judged.facts), known.useful)}
    return [each for each in replaced if wanted & {*known.patches_of(each.function)}]


def _stage_of(
    judged: _Judged, known: Known, replaced: Sequence[MethodReplaced], blamed_somewhere: set[MethodReplaced]
) -> Stage:
    """A call in the report; a method that the script has `replaced` is in a note where it is blamed for no finding."""
    facts, finding = judged.facts, None if judged.is_handled else judged.finding
    call = next(call for call in judged.by_rank.values() if call is not None)
    blamed = _blamed(judged, replaced, known)
    useless = {patch for each in blamed for patch in known.patches_of(each.function)}
    patches = tuple(patch for patch in judged.patches if patch not in useless)
    remedy = () if finding is None or not judged.is_sought else finding.remedy
    if judged.refusal and finding is not None:
        remedy = _FOR_GPUS if judged.refusal.endswith("GPUs") else _FOR_REFUSED
    if blamed:
        remedy = (*(_in_words(each, known) for each in blamed), *_FOR_REPLACED, *remedy)
    own = [_in_words(each, known) for each in replaced if each in call.replaced and each not in blamed_somewhere]
    notes = [*_unasked(judged.by_rank), *_notes_of(facts, finding, known.missing), *own]
    if judged.is_handled and judged.finding is not None:
        notes.append(f"raises {shortened(judged.finding.message)}{judged.refusal}, and the script goes on")
    return Stage(
        call=call.name,
        file=call.started.file,
        line=call.started.line,
        model=", ".join(facts.models),
        outcome="pass" if finding is None else finding.outcome,
        detail="" if finding is None else finding.detail + judged.refusal,
        ranks=tuple(_word_for(each) for each in judged.by_rank.values()),
        patches=patches,
        notes=tuple(notes),
        why="" if finding is None or judged.refusal else finding.why,
        remedy=remedy,
        observed=_observed(finding) if judged.is_sought and finding is not None and not patches and not remedy else (),
        is_for_one_device=bool(facts.one_device),
        is_refused_alone=bool(judged.refusal),
        is_sought=judged.is_sought,
        evidence=tuple(_evidence_of(rank, each, facts.trainings) for rank, each in judged.by_rank.items()),
    )


_FOR_REFUSED = ("Fix the script first: it raises the same error in a single process (devices=1).",)
_FOR_GPUS = (
    'On a machine with GPUs, neuralforecast sets accelerator="gpu" and devices=-1 where a script does not, in a single '
    "process too. Set both, for example:",
    '    accelerator="cpu", devices=1',
)
_FOR_REPLACED = ("Remove the replacement, or make it do what the patched function does.",)


def _in_words(replaced: MethodReplaced, known: Known) -> str:
    """Says that the script replaces a method that patches change."""
    function = replaced.function.partition(":")[2]
    patches = ", ".join(known.patches_of(replaced.function))
    return (
        f"the script replaces {function} ({in_file(replaced.file, replaced.line)}), which {patches} changes, "
        "so that the patch has no effect there"
    )


def _observed(finding: Finding) -> tuple[str, ...]:
    """The evidence, to quote in an issue."""
    lines = [
        line for error in finding.errors for line in (*error.splitlines()[:1], *error.splitlines()[1:][-LAST_FRAMES:])
    ]
    return tuple(lines or finding.detail.splitlines())


def _refusal_of_one_process(by_rank: Mapping[int, Optional[Call]], finding: Finding) -> str:
    """Says that a single process raises the same error, to append to a sentence; empty where it does not."""
    references = [each for call in by_rank.values() if call is not None for each in call.references]
    same = [each for each in references if each.error is not None and each.error[:300] == finding.message[:300]]
    if finding.outcome != "error" or not same:
        return ""
    where = " on a machine with GPUs" if all(each.needs_gpus for each in same) else ""
    return f"; a single process raises the same error{where}"


def _unasked(by_rank: Mapping[int, Optional[Call]]) -> Iterable[str]:
    """Why a call that returned was not compared with a single-process reference, if it was not."""
    for call in by_rank.values():
        if call is not None and call.raised is None:
            for words in dict.fromkeys(each.error for each in call.references if each.error):
                yield f"not compared with a single-process reference, which raised {shortened(words)}"


def _notes_of(facts: CallFacts, finding: Optional[Finding], missing: Sequence[Patch]) -> Iterable[str]:
    """Notes on calls for one device or one rank only, and on whether `find_unused_parameters=True` is needed."""
    if facts.one_device:
        yield (
            f"{facts.one_device} is a strategy for one device, so one process trains, however many devices there are; "
            'to use several, set strategy="ddp" and devices=-1'
        )
    if diverging_calls.is_by_one_rank(facts) and len(facts.ranks) > 1:
        made = [str(rank) for rank, each in facts.ranks.items() if each.name]
        yield f"called on rank {', '.join(made)} only"
    options = different_data.different_options(facts)
    if (
        options is not None
        and not diverging_calls.diverges(facts)
        and (finding is None or options not in finding.detail)
    ):
        yield f"{options}, without an effect here" if finding is None else options
    asked = [each for each in facts.all_trainings if each.find_unused]
    if not asked:
        return
    unused = tuple(dict.fromkeys(name for each in asked for name in each.unused))
    if not unused:
        yield "find_unused_parameters=True is kept, but not needed: there are no unused parameters"
        return
    patches = patches_for_unused(unused, _classes_of(facts), missing)
    remedy = f"not needed with {', '.join(patches)}" if patches else "no patch in the catalog fixes them"
    if facts.own_layers():
        frozen = [
            f"{each.layer}.requires_grad_(False) in {in_file(each.file, each.line)}" for each in facts.own_layers()
        ]
        remedy = f"not needed with {', '.join([*patches, *frozen])}"
    yield f"find_unused_parameters=True is kept, because of {listed(unused)}: {remedy}"


def _word_for(call: Optional[Call]) -> str:
    if call is None:
        return "-"
    if call.raised is not None:
        return call.raised.message.partition(":")[0]
    if call.returned is None:
        return "waits"
    forecasts = call.returned.forecasts
    return f"{forecasts[0].rows} rows" if forecasts else "returned"


def _evidence_of(rank: int, call: Optional[Call], trainings: Mapping[int, Mapping[int, Training]]) -> dict[str, Any]:
    """What a rank recorded of a call, for the JSON document."""
    own = [{name: getattr(ranks[rank], name) for name in _REPORTED} for ranks in trainings.values() if rank in ranks]
    evidence: dict[str, Any] = {"rank": rank, "state": _word_for(call), "trainings": own}
    if call is not None:
        returned = {} if call.returned is None else asdict(call.returned)
        evidence["error"] = None if call.raised is None else call.raised.message
        evidence["written"] = sorted(call.written)
        evidence.update({name: returned.get(name) for name in ("chosen", "weights")})
        evidence["forecasts"] = next(iter(returned.get("forecasts", ())), None)
    return evidence
