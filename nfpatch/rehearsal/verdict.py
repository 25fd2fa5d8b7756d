"""What the notes of all ranks amount to: call by call, what is not as in one process, and what heals it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, Optional

from nfpatch.catalog import Patch
from nfpatch.console import count
from nfpatch.engine.logs import frames_of_dump
from nfpatch.rehearsal.records import Call, Records, Training
from nfpatch.target import ENTRY
from nfpatch.target.outcomes import UNUSED_PARAMETERS_MESSAGES

Outcome = Literal["pass", "unused-parameters", "error", "timeout", "wrong"]

# A validation loss is a sum over series, and the ranks may add in another order.
LOSS_TOLERANCE = 1e-5
# How other ranks see that one has ended
_CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "SIGTERM", "unexpected EOF")
# By call, the stages of the catalog's cases whose errors it may end with
_STAGES: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "load", "fewer-devices"),
    "predict_insample": ("insample", "predict"),
    "cross_validation": ("cross-validation", "predict", "refit", "validate", "search", "ray-search", "failing-rank"),
    "save": ("save", "own-callbacks"),
    "load": ("save", "load"),
    "fit": (
        "own-callbacks",
        *("validate", "refit", "predict", "search", "ray-search", "no-batch", "strategy-object", "failing-rank"),
        *("fewer-devices", "cross-validation"),
    ),
}
# By what differs, or by the call that does not come back, the stages of the cases that show just this
_SHOWN: dict[str, tuple[str, ...]] = {
    "validation": ("validate",),
    "search": ("search",),
    "ray-search": ("ray-search",),
    "files": ("save",),
    "weights": ("refit",),
    "predict": ("load",),  # and predict, which alone also shows how multivariate models have been trained
    "predict_insample": ("insample",),
    "cross_validation": ("cross-validation",),
    "save": ("save",),
    "load": ("save",),
}


@dataclass(frozen=True)
class Stage:
    """One call of the script and what came of it on all ranks.

    `ranks` tells what became of it on each, in a word or two; `patches` are the ids of those that heal it and that
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


@dataclass(frozen=True)
class Fault:
    """What is wrong with a call: how it ended, in words, and by what a patch is found that heals it.

    It `is_consequence` of what is wrong with an earlier one.
    """

    outcome: Outcome
    detail: str
    words: str = ""
    unused: tuple[str, ...] = ()
    kind: str = ""
    is_consequence: bool = False


def stages_of(records: Records, devices: int, lacking: Sequence[Patch], ended: Optional[str]) -> list[Stage]:
    """The calls of a script in its order. `ended` says why its processes were ended by nfpatch, if they were."""
    return [_stage_of(records, number, devices, lacking, ended) for number in records.numbers]


def _stage_of(records: Records, number: int, devices: int, lacking: Sequence[Patch], ended: Optional[str]) -> Stage:
    by_rank = {rank.number: rank.calls.get(number) for rank in sorted(records.ranks.values(), key=lambda r: r.number)}
    call = next(call for call in by_rank.values() if call is not None)
    trainings = records.trainings_of(number)
    fault = (
        _ended_badly(by_rank, trainings)
        or _searched_otherwise(by_rank, call)
        or _hangs(records, by_rank, call, ended)
        or _ways_part(by_rank, call)
        or _trained_otherwise(call, trainings, devices)
        or _answers_differ(by_rank, call)
        or _writes_together(by_rank)
    )
    models = tuple(dict.fromkeys(call.started.models)) or tuple(
        dict.fromkeys(training.model for ranks in trainings.values() for training in ranks.values() if training.model)
    )
    is_refused_alone = fault is not None and _is_refused_alone(by_rank, fault)
    is_sought = fault is not None and not is_refused_alone and not fault.is_consequence
    return Stage(
        call=call.name,
        file=call.started.file,
        line=call.started.line,
        model=", ".join(models),
        outcome="pass" if fault is None else fault.outcome,
        detail="" if fault is None else fault.detail + ("; one process is refused as well" if is_refused_alone else ""),
        ranks=tuple(_word_for(each) for each in by_rank.values()),
        patches=healing(fault, call.method, models, lacking) if fault is not None and is_sought else (),
        notes=(*_unasked(by_rank), *_notes_of(trainings, models, lacking)),
        is_sought=is_sought,
        evidence=tuple(_evidence_of(number, each, trainings) for number, each in by_rank.items()),
    )


def _ended_badly(by_rank: dict[int, Optional[Call]], trainings: dict[int, dict[int, Training]]) -> Optional[Fault]:
    """The exception of the rank that failed first, and not because another had ended."""
    raised = [(rank, call.raised) for rank, call in by_rank.items() if call is not None and call.raised is not None]
    if not raised:
        return None
    raised.sort(key=lambda each: (any(word in each[1].event.error for word in _CONSEQUENCES), each[1].time))
    rank, event = raised[0][0], raised[0][1].event
    error = event.error
    places = [place for place in event.places if "/neuralforecast/" in place] or [*event.places] or [""]
    if any(words in error for words in UNUSED_PARAMETERS_MESSAGES):
        left = [name for ranks in trainings.values() for each in ranks.values() for name in each.unused]
        unused = tuple(dict.fromkeys(event.unused or left))
        number = count(len(unused), "parameter", "parameters")
        words = f"refused by strict DDP: {number} without a gradient ({listed(unused)})"
        return Fault("unused-parameters", words, error, unused)
    same = len(raised) == len(by_rank) and len({each.event.error for _, each in raised}) == 1
    who = "every rank" if same else f"rank {rank}"
    return Fault(
        "error",
        f"{who}: {_shortened(error)}" + (f", at {_within(places[-1])}" if places[-1] else ""),
        error,
    )


def _hangs(records: Records, by_rank: dict[int, Optional[Call]], call: Call, ended: Optional[str]) -> Optional[Fault]:
    """Ranks that are still in the call, or have never come to it, when the others had done with it."""
    waiting = [rank for rank, each in by_rank.items() if each is None or not each.is_over]
    if not waiting:
        return None
    failed = {rank: records.failure_of(rank) for rank in waiting if by_rank[rank] is None}
    if failed and all(failed.values()):
        told = "; ".join(f"rank {rank} has ended in {name}" for rank, name in failed.items())
        return Fault("timeout", f"not made on all ranks: {told}", is_consequence=True)
    words = []
    for rank in waiting:
        place = place_of(records.stack_of(records.ranks[rank]))
        own = by_rank[rank]
        how = "never comes to it" if own is None else "does not come back"
        words.append(f"rank {rank} {how}" + (f": it waits in {place}" if place else ""))
    kind = call.started.search or call.method
    return Fault("timeout", "; ".join(words) + (f" ({ended})" if ended else ""), kind=kind)


def place_of(stack: str) -> str:
    """Where a process is by its stack, innermost frame first: the collective that it waits in, and what called it."""
    frames = frames_of_dump(stack)
    if not frames:
        return ""
    collective = [name for file, _, name in frames if "/torch/distributed/" in file and not name.startswith("_")]
    outer = next((f"{_within(file)}:{line} in {name}" for file, line, name in frames if _tells(file)), "")
    if collective:
        return collective[0] + (f", called at {outer}" if outer else "")
    file, line, name = frames[0]
    inner = f"{_within(file)}:{line} in {name}"
    return inner if not outer or outer == inner else f"{inner}, called at {outer}"


def _within(place: str) -> str:
    """A place without the site-packages folder that it is in."""
    return place.rpartition("site-packages/")[2]


def _tells(file: str) -> bool:
    """Whether a frame of this file tells a user where a process is: neuralforecast's, or the script's own."""
    is_own = file.startswith(str(ENTRY.parent))
    of_others = any(part in file for part in ("/site-packages/", "/dist-packages/", "/lib/python"))
    return "/neuralforecast/" in file or not (is_own or of_others)


def _searched_otherwise(by_rank: dict[int, Optional[Call]], call: Call) -> Optional[Fault]:
    """A search of which the ranks have other results."""
    chosen = {rank: each.returned.chosen for rank, each in by_rank.items() if each is not None and each.returned}
    for rank, found in chosen.items():
        for own, due in zip(found, chosen[min(chosen)]):
            if own != due:
                words = f"rank {min(chosen)} has chosen {due}; rank {rank} {own}"
                return Fault("wrong", words, kind=call.started.search)
    return None


def _ways_part(by_rank: dict[int, Optional[Call]], call: Call) -> Optional[Fault]:
    """Ranks whose script goes another way."""
    for rank, each in by_rank.items():
        if each is not None and (each.name, each.started.line) != (call.name, call.started.line):
            return Fault("wrong", f"rank {rank} makes another call meanwhile: {each.name} in line {each.started.line}")
    return None


def _trained_otherwise(call: Call, trainings: dict[int, dict[int, Training]], devices: int) -> Optional[Fault]:
    """Trainings in too few processes, or that do not end alike."""
    if not trainings:
        return None
    size = max(each.world_size for ranks in trainings.values() for each in ranks.values())
    if size and size != devices:
        return Fault("wrong", f"trained on {count(size, 'process', 'processes')}, and not on {devices}")
    for index, ranks in trainings.items():
        which = "" if len(trainings) == 1 else f" of training {index + 1}, {ranks[min(ranks)].model},"
        weights = {each.weights for each in ranks.values() if each.weights is not None}
        if len(weights) > 1 and len(ranks) == devices and _is_together(ranks):
            words = f"the weights{which} are not the same on all ranks"
            return Fault("wrong", words, kind=call.started.search or "weights")
        losses = {rank: each.validated for rank, each in ranks.items() if each.validated and _is_together(ranks)}
        first: Sequence[float] = next(iter(losses.values()), ())
        for rank, found in losses.items():
            if not _are_close(found, first):
                words = (
                    f"the validation loss{which} is {first[-1]:.6g} on rank {min(losses)}, {found[-1]:.6g} on {rank}"
                )
                return Fault("wrong", words, kind="validation")
        for due in (each.validation for each in call.references if each.index == index):
            if due is not None and first and not _are_close(first[-1:], [due]):
                words = f"the validation loss{which} is {first[-1]:.6g}, and {due:.6g} in one process"
                return Fault("wrong", words, kind="validation")
    return None


def _is_together(ranks: dict[int, Training]) -> bool:
    return all(each.world_size > 1 for each in ranks.values())


def _are_close(found: Sequence[float], due: Sequence[float]) -> bool:
    return len(found) == len(due) and all(
        one == other or (one != one and other != other) or abs(one - other) <= LOSS_TOLERANCE * abs(other)
        for one, other in zip(found, due)
    )


def _answers_differ(by_rank: dict[int, Optional[Call]], call: Call) -> Optional[Fault]:
    """Forecasts or weights that are not those of one process, or not the same on all ranks."""
    for reference in call.references:
        if reference.differ:
            return Fault("wrong", reference.differ, kind=call.method)
    answers = {rank: each.returned for rank, each in by_rank.items() if each is not None and each.returned is not None}
    for rank, answer in answers.items():
        due = answers[min(answers)]
        if answer.weights != due.weights:
            words = f"rank {rank} goes on with other weights than rank {min(answers)}"
            return Fault("wrong", words, kind=call.started.search or "weights")
        one, other = answer.forecasts, due.forecasts
        if one is not None and other is not None and one.digest != other.digest:
            words = (
                f"rank {rank} and rank {min(answers)} have other forecasts: "
                f"{one.rows} rows, {one.nan} numbers missing, and {other.rows} rows, {other.nan} missing"
            )
            return Fault("wrong", words, kind=call.method)
    return None


def _writes_together(by_rank: dict[int, Optional[Call]]) -> Optional[Fault]:
    """Files that more than one rank writes in the call."""
    shared = shared_files([call.written for call in by_rank.values() if call is not None])
    if not shared:
        return None
    return Fault("wrong", f"more than one rank writes {listed(shared)}", kind="files")


def shared_files(written: Iterable[dict[str, set[str]]]) -> list[str]:
    """The paths at which ranks may do each other harm: more than one of them, and not all put a whole file there.

    Nor does it matter that more than one removes the same.
    """
    ranks: Counter[str] = Counter()
    how: dict[str, set[str]] = {}
    for paths in written:
        for path, ways in paths.items():
            ranks[path] += 1
            how.setdefault(path, set()).update(ways)
    return sorted(path for path in ranks if ranks[path] > 1 and how[path] not in ({"replaced"}, {"removed"}))


def listed(paths: Sequence[str]) -> str:
    """Up to three of them, and how many more."""
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _is_refused_alone(by_rank: dict[int, Optional[Call]], fault: Fault) -> bool:
    """Whether one process ends with the same error."""
    errors = [each.error for call in by_rank.values() if call is not None for each in call.references if each.error]
    return fault.outcome == "error" and any(words[:300] == fault.words[:300] for words in errors)


def _unasked(by_rank: dict[int, Optional[Call]]) -> Iterable[str]:
    """Why a call that came back is not held against one process, if that could not be asked."""
    for call in by_rank.values():
        if call is not None and call.raised is None:
            for words in dict.fromkeys(each.error for each in call.references if each.error):
                yield f"not held against one process, which ended with {_shortened(words)}"


def healing(fault: Fault, call: str, models: Sequence[str], lacking: Sequence[Patch]) -> tuple[str, ...]:
    """The ids of the patches that heal a fault: by the parameters, by words of the error, or by what shows."""
    stages = _STAGES.get(call, ()) if fault.outcome == "error" else _SHOWN.get(fault.kind, ())
    if fault.unused:
        return _healing_dead(fault.unused, models, lacking)
    at_stage = [patch for patch in lacking if set(stages) & set(_stages_of(patch))]
    if fault.outcome == "error":
        return tuple(patch.id for patch in at_stage if any(words in fault.words for words in patch.symptoms))
    return tuple(patch.id for patch in at_stage)


def _stages_of(patch: Patch) -> list[str]:
    """The stages at which the cases of a patch show it, but for those on Spark."""
    return [case.stage for case in patch.cases if case.launchers != ("spark",)]


def _healing_dead(unused: Sequence[str], models: Sequence[str], lacking: Sequence[Patch]) -> tuple[str, ...]:
    """The ids of the patches of these models that account for parameters without a gradient; no more than it takes."""
    found: dict[str, set[str]] = {}
    for patch in lacking:
        if patch.model == "any" or any(patch.model in (model, model.removeprefix("Auto")) for model in models):
            found[patch.id] = {
                name for name in unused if any(fnmatchcase(name, pattern) for pattern in patch.unused_parameters)
            }
    taken: list[str] = []
    left = set(unused)
    for patch_id in sorted(found, key=lambda each: -len(found[each])):
        if found[patch_id] & left:
            taken.append(patch_id)
            left -= found[patch_id]
    return tuple(sorted(taken))


def _notes_of(
    trainings: dict[int, dict[int, Training]], models: Sequence[str], lacking: Sequence[Patch]
) -> Iterable[str]:
    """What `find_unused_parameters=True` is good for in a call."""
    asked = [each for ranks in trainings.values() for each in ranks.values() if each.find_unused]
    if not asked:
        return
    unused = tuple(dict.fromkeys(name for each in asked for name in each.unused))
    if not unused:
        yield "find_unused_parameters=True is kept, and needless: every parameter gets a gradient"
        return
    healed_by = _healing_dead(unused, models, lacking)
    remedy = f"needless with {', '.join(healed_by)}" if healed_by else "no patch of the catalog is known for them"
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


def _evidence_of(rank: int, call: Optional[Call], trainings: dict[int, dict[int, Training]]) -> dict[str, Any]:
    """What a rank tells of a call, for the JSON document."""
    own = [asdict(ranks[rank]) for ranks in trainings.values() if rank in ranks]
    evidence: dict[str, Any] = {"rank": rank, "state": _word_for(call), "trainings": own}
    if call is not None:
        returned = {} if call.returned is None else asdict(call.returned)
        evidence["error"] = None if call.raised is None else call.raised.event.error
        evidence["written"] = sorted(call.written)
        evidence.update({name: returned.get(name) for name in ("forecasts", "chosen", "weights")})
    return evidence


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + " ..."
