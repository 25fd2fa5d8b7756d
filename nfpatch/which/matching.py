"""Which patches fix what a log says: by parameters, by words of errors, by the functions they come from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.console import ONLY_IF
from nfpatch.patching.install_state import InstallState, PatchState
from nfpatch.which.logs import Frame, Line, Log

# What strict DDP refuses unused parameters with: Lightning 2, which replaces torch's words, and torch itself.
REFUSALS = ("parameters that were not used in producing the loss", "Expected to have finished reduction in the prior")
# What `load_state_dict` raises for unexpected and for missing keys
_OTHER_KEYS = "key(s) in state_dict"
# Words that say that another rank, or each trial, has failed. They say nothing where that one says why.
_CONSEQUENCES = ("Connection closed by peer", "No best trial found for the given metric")
_FORECASTS = ("predict", "predict_insample", "cross_validation", "simulate", "explain", "decompose")
# By the stages of a patch's cases, the functions of neuralforecast that its errors come out of.
_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("predict", "insample", "cross-validation", "fewer-devices"), _FORECASTS),
    "save": ("save", "load"),
    "load": ("load", *_FORECASTS),
}
_OTHER_FUNCTIONS = ("fit", "cross_validation")
# Lines with the same words that are looked at.
_MOST_LINES = 100
# Names of parameters that are written out.
_MOST_NAMES = 3


@dataclass(frozen=True)
class Match:
    """A patch that fixes what a line says.

    `words` are those by which it was found, `line` where they stand first, from 1; `text` is that line. `state` is that
    of the patch in the install, with the `reason` in words; None where there is no install. `only_if` is a condition,
    where errors with other causes have the same words.
    """

    patch: Patch
    line: int
    text: str
    words: str
    state: Optional[PatchState] = None
    reason: str = ""
    only_if: str = ""

    def to_json(self) -> dict[str, object]:
        """An element of `matches` in the JSON of `nfpatch which`."""
        return {
            "id": self.patch.id,
            "line": self.line,
            "words": self.words,
            "state": self.state,
            "only_if": self.only_if or None,
        }


@dataclass(frozen=True)
class Answer:
    """What is known of a log.

    `matches` are in the order of their lines. `unknown` are parameters without a gradient that no patch is known for.
    `unnamed` is the line with which strict DDP refuses parameters that the log does not name. It `is_about_saved_model`
    where a saved model has other parameters than its class.
    """

    matches: tuple[Match, ...]
    unknown: tuple[str, ...] = ()
    unnamed: Optional[Line] = None
    is_about_saved_model: bool = False

    @property
    def ok(self) -> bool:
        """Whether some patch is the answer, be it that the install has it already."""
        return any(match.state != "not-needed" for match in self.matches)


def answer_for(log: Log, catalog: Catalog, state: Optional[InstallState] = None) -> Answer:
    """The patches of the catalog that fix what a log says, in the light of what an install needs and has."""
    refusal = min((line for words in REFUSALS for line in log.find(words)), default=None)
    unused = log.unused
    unknown: tuple[str, ...] = ()
    matches: list[Match] = []
    if unused is not None:
        line, names = unused
        useful = [patch for patch in catalog.patches if state is None or state.status_of(patch).state != "not-needed"]
        taken = _by_parameters(names, log, useful) or _by_parameters(names, log, catalog.patches)
        matches += [Match(patch, line.number, line.text, listed(covered)) for patch, covered in taken]
        unknown = tuple(name for name in names if all(name not in covered for _, covered in taken))
    elif refusal is not None:
        words = next(words for words in REFUSALS if words in refusal.text)
        matches += [Match(patch, refusal.number, refusal.text, words) for patch in _by_layers(log, refusal, catalog)]
    matches += _by_words(log, catalog)
    matches.sort(key=lambda match: (match.line, match.patch.id))
    kept = _best([match if state is None else _in_install(match, state) for match in matches])
    return Answer(kept, unknown, refusal if unused is None else None, _OTHER_KEYS in log.text)


def listed(names: Sequence[str]) -> str:
    """Some of these names, and how many more there are."""
    return ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    )


def _in_install(match: Match, state: InstallState) -> Match:
    status = state.status_of(match.patch)
    return replace(match, state=status.state, reason=status.reason)


def _by_parameters(names: Sequence[str], log: Log, patches: Iterable[Patch]) -> list[tuple[Patch, tuple[str, ...]]]:
    """The patches that account for these parameters, no more than it takes, with those of each.

    Of several that account for the same ones: those that name them most closely, and of these, where the log names
    models of some, only them.
    """
    covering = [(patch, tuple(name for name in names if _covers(patch, name))) for patch in patches]
    left = set(names)
    taken: list[tuple[Patch, tuple[str, ...]]] = []
    while True:
        most = max((len(left.intersection(covered)) for _, covered in covering), default=0)
        if most == 0:
            return taken
        best = [each for each in covering if len(left.intersection(each[1])) == most]
        closest = max(_closeness(patch) for patch, _ in best)
        best = [each for each in best if _closeness(each[0]) == closest]
        best = [each for each in best if log.names_model(each[0].model)] or best
        taken += best
        left.difference_update(*(covered for _, covered in best))


def _covers(patch: Patch, name: str) -> bool:
    """Whether the patch is for this parameter, of a model or of one that another wraps (HINT's `model`)."""
    return any(
        fnmatchcase(each, pattern)
        for each in (name, name.removeprefix("model."))
        for pattern in patch.unused_parameters
    )


def _closeness(patch: Patch) -> int:
    """How much of a name the patterns of a patch tell at the least."""
    return min(len(pattern.replace("*", "")) for pattern in patch.unused_parameters)


def _by_layers(log: Log, refusal: Line, catalog: Catalog) -> list[Patch]:
    """The patches for unused parameters of which the log does not say which they are.

    Where it has the layers of the model, those for its layers; and of these, where it names models of some, only them.
    """
    layers = log.layers_before(refusal)
    candidates = [
        patch
        for patch in catalog.patches
        if patch.unused_parameters and (not layers or patch.model in layers.values() or _has_layer(patch, layers))
    ]
    return [patch for patch in candidates if log.names_model(patch.model)] or candidates


def _has_layer(patch: Patch, layers: Mapping[str, str]) -> bool:
    return any(pattern.partition(".")[0] in layers for pattern in patch.unused_parameters)


def _by_words(log: Log, catalog: Catalog) -> list[Match]:
    """The patches whose symptoms the log has, each by the first line that can be its own."""
    matches: list[Match] = []
    frames: dict[int, tuple[Frame, ...]] = {}
    is_on_spark = "spark" in log.text.lower()
    for patch in catalog.patches:
        for words in patch.symptoms:
            for line in [line for line, _ in zip(log.find(words), range(_MOST_LINES))]:
                if line.number not in frames:
                    frames[line.number] = log.frames_of(line)
                if _can_be_of(patch, words, frames[line.number], is_on_spark):
                    only_if = ONLY_IF if words in patch.ambiguous else ""
                    matches.append(Match(patch, line.number, line.text, words, only_if=only_if))
                    break
    matches = [match for match in matches if not _is_told_better(match, matches, frames)]
    causes = [match for match in matches if match.words not in _CONSEQUENCES]
    return causes or matches


def _can_be_of(patch: Patch, words: str, frames: Sequence[Frame], is_on_spark: bool) -> bool:
    """Whether an error with these words, from these frames, can be the bug of the patch.

    Nothing speaks against it where the log has no traceback of it, or one of libraries only, as of ray's own processes.
    """
    own = [frame for frame in frames if frame.place is not None]
    if not own:
        return all(frame.is_library for frame in frames)
    if patch.group == "spark":
        return is_on_spark
    if words not in patch.ambiguous:
        return True
    functions = {function for _, function in _rewritten(patch)}
    for case in patch.cases:
        functions.update(_FUNCTIONS.get(case.stage, _OTHER_FUNCTIONS))
    return any(frame.function in functions for frame in own)


def _is_told_better(match: Match, matches: Sequence[Match], frames: Mapping[int, Sequence[Frame]]) -> bool:
    """Whether another match says of the same line what cannot have other causes, or comes from just this function.

    On Spark a patch of that group may be needed besides.
    """
    rivals = [other for other in matches if other.line == match.line and other.patch.id != match.patch.id]
    if match.only_if and any(not other.only_if for other in rivals):
        return True
    own = frames[match.line]
    return not _is_from(match.patch, own) and any(
        _is_from(other.patch, own) for other in rivals if other.patch.group == match.patch.group
    )


def _is_from(patch: Patch, frames: Sequence[Frame]) -> bool:
    """Whether a traceback goes through a function that the patch changes in some release."""
    return any((frame.place, frame.function) in _rewritten(patch) for frame in frames)


def _rewritten(patch: Patch) -> set[tuple[str, str]]:
    """The functions that the patch changes in some release, by file and name."""
    return {
        (file, change.where.rpartition(".")[2])
        for variant in patch.variants.values()
        for file, rewrite in variant.items()
        for change in rewrite.changes
    }


def _best(matches: Sequence[Match]) -> tuple[Match, ...]:
    """One match of each patch; those that this install does not need only where no other is of the same line."""
    first = {match.patch.id: match for match in reversed(matches)}
    kept = [match for match in matches if first[match.patch.id] is match]
    needed = {match.line for match in kept if match.state != "not-needed"}
    return tuple(match for match in kept if match.state != "not-needed" or match.line not in needed)
