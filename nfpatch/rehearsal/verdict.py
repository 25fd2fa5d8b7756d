"""Judges the calls of a script: the finding of each, its consequences, and the patches or changes that fix it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nfpatch.catalog import Patch
from nfpatch.engine.checks import different_data, first_finding, shared_files
from nfpatch.engine.checks.diverging_calls import diverges, is_by_one_rank
from nfpatch.engine.facts import Call, CallFacts, Finding, Outcome, in_file, listed, shortened
from nfpatch.engine.remedies import patches_for, patches_for_unused
from nfpatch.rehearsal.records import Records
from nfpatch.target.events import MethodReplaced

# Of a training, what the JSON document has
_REPORTED = ("model", "world_size", "find_unused", "steps", "losses", "validated", "unused", "weights")
# Of an exception, how many frames are shown for an issue
LAST_FRAMES = 6

_PASS = Finding("pass", "")
_FOR_REFUSED = ("Fix the script first: it raises the same error in a single process (devices=1).",)
_FOR_GPUS = (
    'On a machine with GPUs, neuralforecast sets accelerator="gpu" and devices=-1 where a script does not, in a single '
    "process too. Set both, for example:",
    '    accelerator="cpu", devices=1',
)
_FOR_REPLACED = ("Remove the replacement, or make it do what the patched function does.",)


@dataclass(frozen=True)
class Stage:
    """One call of the script and its result on all ranks.

    `ranks` has what each rank recorded, as in the JSON; `patches` are the ids of the patches that fix the finding and
    that the rehearsed source lacks, `notes` are remarks that are no findings. `why` says why it matters, `remedy` what
    to change in the script; where neither that nor a patch is known, `observed` is for an issue. It is `refused_alone`
    if a single process raises the same error.
    """

    call: str
    file: str
    line: int
    model: str
    outcome: Outcome
    detail: str
    ranks: tuple[dict[str, Any], ...]
    patches: tuple[str, ...]
    notes: tuple[str, ...]
    why: str
    remedy: tuple[str, ...]
    observed: tuple[str, ...]
    refused_alone: bool

    @property
    def ok(self) -> bool:
        """Whether all ranks match the single-process reference."""
        return self.outcome == "pass"

    @property
    def place(self) -> str:
        """The file name and line in the script."""
        return in_file(self.file, self.line)

    @property
    def states(self) -> tuple[str, ...]:
        """The state on each rank, in a word or two."""
        return tuple(rank["state"] for rank in self.ranks)

    def to_json(self) -> dict[str, object]:
        """An element of `stages` in the JSON of `nfpatch rehearse`."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True)
class Known:
    """The patches that a release needs: all of them are `useful`, `missing` are those that the rehearsed source lacks.

    `by_function` has the ids of the patches that change a function, by its name as in `RehearsalSpec`.
    """

    missing: Sequence[Patch]
    useful: Sequence[Patch]
    by_function: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class _Judged:
    """A call, its finding, and the ids of the patches that fix it.

    It `is_refused` if a single process raises the same error; `note` says so if the script catches that.
    """

    facts: CallFacts
    finding: Finding
    patches: tuple[str, ...] = ()
    is_refused: bool = False
    note: str = ""

    @property
    def needs_remedy(self) -> bool:
        """Whether it has a finding that concerns several processes, and is no consequence of another."""
        return self.finding.outcome != "pass" and not self.is_refused and not self.finding.is_consequence


def stages_of(records: Records, devices: int, known: Known, ended: str | None) -> list[Stage]:
    """The calls of a script in its order. `ended` says why its processes were ended by nfpatch, if they were.

    A consequence of an earlier finding is merged into that finding, or is marked as one.
    """
    judged = [_judge(facts, known) for facts in records.facts(devices, ended)]
    replaced = {each: None for one in judged for call in one.facts.ranks.values() for each in call.replaced}
    judged = _merge_missing_calls(_mark_late_divergence(_merge_effects_of_arguments(judged)))
    blamed = [_blamed(one, replaced, known) for one in judged]
    noted = [each for each in replaced if not any(each in own for own in blamed)]
    return [_stage_of(one, own, noted, known) for one, own in zip(judged, blamed)]


def _judge(facts: CallFacts, known: Known) -> _Judged:
    finding = first_finding(facts) or _PASS
    refusals = [each for each in facts.references if each.error and each.error[:300] == finding.message[:300]]
    if finding.outcome == "error" and refusals:
        return _judge_refused(facts, finding, needs_gpus=all(each.needs_gpus for each in refusals))
    patches = () if finding.is_consequence else patches_for(finding, _classes_of(facts), known.missing)
    return _Judged(facts, finding, patches)


def _judge_refused(facts: CallFacts, finding: Finding, needs_gpus: bool) -> _Judged:
    """Judges a call that fails in a single process too. It passes if the script catches the error on all ranks."""
    where = " on a machine with GPUs" if needs_gpus else ""
    words = f"; a single process raises the same error{where}"
    if _all_raise_the_same(facts) and all(each.has_gone_on for each in facts.ranks.values()):
        note = f"raises {shortened(finding.message)}{words}, and the script continues"
        return _Judged(facts, _PASS, is_refused=True, note=note)
    remedy = _FOR_GPUS if needs_gpus else _FOR_REFUSED
    return _Judged(facts, replace(finding, detail=finding.detail + words, why="", remedy=remedy), is_refused=True)


def _merge_effects_of_arguments(judged: list[_Judged]) -> list[_Judged]:
    """Merges the findings that arguments which differ between ranks explain into one, on the call with them."""
    for index, cause in enumerate(judged):
        if different_data.because_of_arguments(cause.facts, "") is None:
            continue
        effects = [each for each in judged[index:] if _may_be_effect(each, cause.facts)]
        if not effects:
            break
        words = effects[0].finding.detail.partition("\n")[0]
        where = "" if effects[0] is cause else f" in line {effects[0].facts.first.line}"
        finding = different_data.because_of_arguments(cause.facts, f"{words}{where}")
        merged = _Judged(cause.facts, finding or cause.finding, note=cause.note)
        return [*judged[:index], merged, *(each for each in judged[index + 1 :] if each not in effects)]
    return judged


def _may_be_effect(each: _Judged, cause: CallFacts) -> bool:
    """Whether a finding may be an effect of arguments that differ between ranks in this or an earlier call.

    What a patch fixes is an effect of different data only, and only if a result differs.
    """
    found = each.finding
    if not each.needs_remedy or diverges(each.facts):
        return False
    if found.outcome == "unused-parameters" or found.why == different_data.WHY:
        return False
    if each.patches and (found.outcome != "wrong" or found.why == shared_files.WHY):
        return False
    if each.patches and different_data.different_data(cause) is None:
        return False
    return len(each.facts.ranks) == 1 or not _all_raise_the_same(each.facts)


def _mark_late_divergence(judged: list[_Judged]) -> list[_Judged]:
    """Marks the last finding as a consequence if the ranks make different calls after another finding."""
    if not any(each.needs_remedy for each in judged[:-1]) or not diverges(judged[-1].facts):
        return judged
    last = judged[-1]
    return [*judged[:-1], replace(last, finding=replace(last.finding, is_consequence=True))]


def _merge_missing_calls(judged: list[_Judged]) -> list[_Judged]:
    """Merges a call that ranks do not make because they failed before it into the finding on that failure."""
    kept: list[_Judged] = []
    cause: int | None = None
    for each in judged:
        is_missing = each.finding.is_consequence and each.finding.outcome == "timeout"
        if cause is None or not is_missing:
            if each.needs_remedy:
                cause = len(kept)
            kept.append(each)
            continue
        failure, call = kept[cause].finding, each.facts.first
        if "as a result" not in failure.detail:
            words = f"{failure.detail}\nas a result: {call.name} in line {call.line} is {each.finding.detail}"
            kept[cause] = replace(kept[cause], finding=replace(failure, detail=words))
    return kept


def _all_raise_the_same(facts: CallFacts) -> bool:
    """Whether all ranks raise the same error."""
    errors = {None if each.raised is None else each.raised.message for each in facts.ranks.values()}
    return len(errors) == 1 and None not in errors


def _classes_of(facts: CallFacts) -> list[str]:
    """The models of a call, and the classes of neuralforecast that those of the user derive from."""
    return list(dict.fromkeys([*facts.models, *(base for each in facts.all_trainings for base in each.bases)]))


def _blamed(judged: _Judged, replaced: Iterable[MethodReplaced], known: Known) -> list[MethodReplaced]:
    """The methods replaced by the script because of which a patch for a finding has no effect."""
    if not judged.needs_remedy:
        return []
    wanted = {*patches_for(judged.finding, _classes_of(judged.facts), known.useful)}
    return [each for each in replaced if wanted & {*known.by_function[each.function]}]


def _stage_of(judged: _Judged, blamed: list[MethodReplaced], noted: list[MethodReplaced], known: Known) -> Stage:
    """A call in the report. Of the methods that the script replaces, `noted` are blamed for no finding of any call."""
    facts, finding = judged.facts, judged.finding
    useless = {patch for each in blamed for patch in known.by_function[each.function]}
    patches = tuple(patch for patch in judged.patches if patch not in useless)
    remedy = () if finding.is_consequence else finding.remedy
    if blamed:
        remedy = (*(_describe(each, known) for each in blamed), *_FOR_REPLACED, *remedy)
    notes = [*_notes_of(facts, finding, known.missing)]
    notes += [_describe(each, known) for each in noted if each in facts.first.replaced]
    if judged.note:
        notes.append(judged.note)
    return Stage(
        call=facts.first.name,
        file=facts.first.started.file,
        line=facts.first.line,
        model=", ".join(facts.models),
        outcome=finding.outcome,
        detail=finding.detail,
        ranks=tuple(_evidence_of(rank, call, facts) for rank, call in facts.ranks.items()),
        patches=patches,
        notes=tuple(notes),
        why=finding.why,
        remedy=remedy,
        observed=_observed(finding) if judged.needs_remedy and not patches and not remedy else (),
        refused_alone=judged.is_refused,
    )


def _describe(replaced: MethodReplaced, known: Known) -> str:
    """A sentence on a method that patches change and that the script replaces."""
    function = replaced.function.partition(":")[2]
    return (
        f"the script replaces {function} ({in_file(replaced.file, replaced.line)}), which "
        f"{', '.join(known.by_function[replaced.function])} changes, so that the patch has no effect there"
    )


def _observed(finding: Finding) -> tuple[str, ...]:
    """The evidence, to quote in an issue: each error with its innermost frames, or else the finding."""
    lines: list[str] = []
    for error in finding.errors:
        message, *frames = error.splitlines()
        lines += [message, *frames[-LAST_FRAMES:]]
    return tuple(lines or finding.detail.splitlines())


def _notes_of(facts: CallFacts, finding: Finding, missing: Sequence[Patch]) -> Iterator[str]:
    """Remarks that are no findings."""
    references = [each for call in facts.ranks.values() if call.raised is None for each in call.references]
    for error in dict.fromkeys(each.error for each in references if each.error):
        yield f"not compared with a single-process reference, which raised {shortened(error)}"
    if facts.one_device:
        yield (
            f"{facts.one_device} is a strategy for one device, so one process trains, however many devices there are; "
            'to use several, set strategy="ddp" and devices=-1'
        )
    if is_by_one_rank(facts):
        yield f"called on rank {', '.join(map(str, facts.made))} only"
    options = different_data.different_options(facts)
    if options is not None and not diverges(facts) and options not in finding.detail:
        yield f"{options}, without an effect here" if finding.outcome == "pass" else options
    yield from _notes_on_find_unused(facts, missing)


def _notes_on_find_unused(facts: CallFacts, missing: Sequence[Patch]) -> Iterator[str]:
    """Whether `find_unused_parameters=True` is needed, if it is set."""
    asked = [each for each in facts.all_trainings if each.find_unused]
    unused = tuple(dict.fromkeys(name for each in asked for name in each.unused))
    if unused:
        frozen = (f"{each.layer}.requires_grad_(False) in {in_file(each.file, each.line)}" for each in facts.own_layers)
        fixes = [*patches_for_unused(unused, _classes_of(facts), missing), *frozen]
        remedy = f"not needed with {', '.join(fixes)}" if fixes else "no patch in the catalog fixes them"
        yield f"find_unused_parameters=True is kept, because of {listed(unused)}: {remedy}"
    elif asked:
        yield "find_unused_parameters=True is kept, but not needed: there are no unused parameters"


def _state_of(call: Call) -> str:
    if not call.name:
        return "-"
    if call.raised is not None:
        return call.raised.message.partition(":")[0]
    if call.returned is None:
        return "waits"
    forecasts = call.returned.forecasts
    return f"{forecasts[0].rows} rows" if forecasts else "returned"


def _evidence_of(rank: int, call: Call, facts: CallFacts) -> dict[str, Any]:
    """What a rank recorded of a call, for the JSON document."""
    trainings = [ranks[rank] for ranks in facts.trainings.values() if rank in ranks]
    evidence: dict[str, Any] = {
        "rank": rank,
        "state": _state_of(call),
        "trainings": [{name: getattr(each, name) for name in _REPORTED} for each in trainings],
    }
    if call.name:
        returned = {} if call.returned is None else asdict(call.returned)
        evidence["error"] = None if call.raised is None else call.raised.message
        evidence["written"] = sorted(call.written)
        evidence.update({name: returned.get(name) for name in ("chosen", "weights")})
        evidence["forecasts"] = next(iter(returned.get("forecasts", ())), None)
    return evidence
