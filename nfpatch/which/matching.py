"""Finds the patches that fix the errors in a log, by unused parameters, by error messages and by functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.console import ONLY_IF
from nfpatch.patching.install_state import InstallState, PatchState
from nfpatch.which.logs import CUT, Line, Log, TracebackFrame

# DDP's errors about unused parameters: of Lightning 2, which replaces torch's message, and of torch itself.
REFUSALS = ("parameters that were not used in producing the loss", "Expected to have finished reduction in the prior")
# Part of the message of `load_state_dict` about unexpected or missing keys.
_OTHER_KEYS = "key(s) in state_dict"
# Messages that only report the failure of another rank, or of all trials. The cause takes precedence if it is found.
_CONSEQUENCES = ("Connection closed by peer", "No best trial found for the given metric")
_FORECASTS = ("predict", "predict_insample", "cross_validation", "simulate", "explain", "decompose")
# By the stage of a patch's cases, the functions of neuralforecast that raise its errors.
_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("predict", "insample", "cross-validation", "fewer-devices"), _FORECASTS),
    "save": ("save", "load"),
    "load": ("load", *_FORECASTS),
}
_OTHER_FUNCTIONS = ("fit", "cross_validation")
# How many lines with the same message are examined.
_MAX_LINES = 100
# How many parameters are named in a message.
_MAX_NAMES = 3


@dataclass(frozen=True)
class Match:
    """A patch that fixes the error in a line.

    `words` are the words that matched; `line` is the number of the first line that contains them, from 1, and `text`
    that line. `state` is the state of the patch in the install, with the `reason`; None without an install. `only_if`
    is a condition, if errors with other causes have the same words.
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
class Diagnosis:
    """The result for a log.

    `matches` are in the order of their lines. `unknown` are unused parameters that no patch fixes. `unnamed` is the
    line of DDP's error about unused parameters if the log does not name them. `is_about_saved_model` is true if a saved
    model has other parameters than its class.
    """

    matches: tuple[Match, ...]
    unknown: tuple[str, ...] = ()
    unnamed: Optional[Line] = None
    is_about_saved_model: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a patch for the log, even if it is already applied."""
        return any(match.state != "not-needed" for match in self.matches)


def diagnose(log: Log, catalog: Catalog, state: Optional[InstallState] = None) -> Diagnosis:
    """The patches of the catalog that fix the errors in a log, with their states in an install if there is one."""
    refusal = min((line for words in REFUSALS for line in log.find(words)), default=None)
    unused = log.unused
    unknown: tuple[str, ...] = ()
    matches: list[Match] = []
    if unused is not None:
        line, names = unused
        useful = [patch for patch in catalog.patches if state is None or state.status_of(patch).state != "not-needed"]
        taken = _by_parameters(names, log, useful) or _by_parameters(names, log, catalog.patches)
        matches += [Match(patch, line.number, line.text, abbreviate(covered)) for patch, covered in taken]
        unknown = tuple(name for name in names if all(name not in covered for _, covered in taken))
    elif refusal is not None:
        words = next(words for words in REFUSALS if words in refusal.text)
        matches += [Match(patch, refusal.number, refusal.text, words) for patch in _by_layers(log, refusal, catalog)]
    matches += _by_words(log, catalog)
    matches.sort(key=lambda match: (match.line, match.patch.id))
    kept = _best([match if state is None else _in_install(match, state) for match in matches])
    return Diagnosis(kept, unknown, refusal if unused is None else None, _OTHER_KEYS in log.text)


def abbreviate(names: Sequence[str]) -> str:
    """The first of these names, and the number of the others."""
    return ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def _in_install(match: Match, state: InstallState) -> Match:
    status = state.status_of(match.patch)
    return replace(match, state=status.state, reason=status.reason)


def _by_parameters(names: Sequence[str], log: Log, patches: Iterable[Patch]) -> list[tuple[Patch, tuple[str, ...]]]:
    """A minimal set of patches that cover these parameters, each with its parameters.

    If several patches cover the same ones, the most specific patterns win; and of these, the patches for models that
    the log mentions, if there are any.
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
    """Whether the patch covers this parameter, of a model or of one inside another (HINT's `model`)."""
    return any(
        fnmatchcase(each, pattern)
        for each in (name, name.removeprefix("model."))
        for pattern in patch.unused_parameters
    )


def _closeness(patch: Patch) -> int:
    """How specific the patterns of a patch are: the least number of characters that are no wildcard."""
    return min(len(pattern.replace("*", "")) for pattern in patch.unused_parameters)


def _by_layers(log: Log, refusal: Line, catalog: Catalog) -> list[Patch]:
    """The patches for unused parameters that the log does not name.

    If the log lists the layers of the model, only patches for these; and of these, the patches for models that the log
    mentions, if there are any.
    """
    layers = log.layers_before(refusal)
    candidates = [
        patch
        for patch in catalog.patches
        if patch.unused_parameters
        and (not layers or _is_any_of(patch.model, layers.values()) or _has_layer(patch, layers))
    ]
    return [patch for patch in candidates if log.names_model(patch.model)] or candidates


def _has_layer(patch: Patch, layers: Mapping[str, str]) -> bool:
    return any(_is_any_of(pattern.partition(".")[0], layers) for pattern in patch.unused_parameters)


def _is_any_of(name: str, listed: Iterable[str]) -> bool:
    """Whether a summary lists this name, whole or cut."""
    return any(name == each or (each.endswith(CUT) and name.startswith(each[: -len(CUT)])) for each in listed)


def _by_words(log: Log, catalog: Catalog) -> list[Match]:
    """The patches whose symptoms the log contains, each with the first line that can be caused by its bug."""
    matches: list[Match] = []
    frames: dict[int, tuple[TracebackFrame, ...]] = {}
    is_on_spark = "spark" in log.text.lower()
    for patch in catalog.patches:
        for words in patch.symptoms:
            for line in [line for line, _ in zip(log.find(words), range(_MAX_LINES))]:
                if line.number not in frames:
                    frames[line.number] = log.frames_of(line)
                if _can_be_of(patch, words, frames[line.number], is_on_spark):
                    only_if = ONLY_IF if words in patch.ambiguous else ""
                    matches.append(Match(patch, line.number, line.text, words, only_if=only_if))
                    break
    matches = [match for match in matches if not _has_better_rival(match, matches, frames)]
    causes = [match for match in matches if match.words not in _CONSEQUENCES]
    return causes or matches


def _can_be_of(patch: Patch, words: str, frames: Sequence[TracebackFrame], is_on_spark: bool) -> bool:
    """Whether an error with these words and this traceback can be caused by the bug of the patch.

    Yes if the log has no traceback, or one that contains only libraries, as in processes of ray.
    """
    own = [frame for frame in frames if frame.catalog_path is not None]
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


def _has_better_rival(match: Match, matches: Sequence[Match], frames: Mapping[int, Sequence[TracebackFrame]]) -> bool:
    """Whether another match of the same line is unambiguous, or changes a function in the traceback, and this is not.

    Patches of other groups do not count: on Spark, a patch of that group may be needed in addition.
    """
    rivals = [other for other in matches if other.line == match.line and other.patch.id != match.patch.id]
    if match.only_if and any(not other.only_if for other in rivals):
        return True
    own = frames[match.line]
    return not _is_from(match.patch, own) and any(
        _is_from(other.patch, own) for other in rivals if other.patch.group == match.patch.group
    )


def _is_from(patch: Patch, frames: Sequence[TracebackFrame]) -> bool:
    """Whether the traceback contains a function that the patch changes in some release."""
    return any((frame.catalog_path, frame.function) in _rewritten(patch) for frame in frames)


def _rewritten(patch: Patch) -> set[tuple[str, str]]:
    """The functions that the patch changes in some release, by file and name."""
    return {
        (file, change.where.rpartition(".")[2])
        for variant in patch.variants.values()
        for file, rewrite in variant.items()
        for change in rewrite.changes
    }


def _best(matches: Sequence[Match]) -> tuple[Match, ...]:
    """One match for each patch. Patches that are not needed are dropped if another one matches the same line."""
    first = {match.patch.id: match for match in reversed(matches)}
    kept = [match for match in matches if first[match.patch.id] is match]
    needed = {match.line for match in kept if match.state != "not-needed"}
    return tuple(match for match in kept if match.state != "not-needed" or match.line not in needed)
