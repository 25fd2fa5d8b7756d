"""Which patches of the catalog fix a finding."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from nfpatch.catalog import Patch
from nfpatch.engine.facts import Finding


def patches_for(finding: Finding, models: Sequence[str], missing: Sequence[Patch]) -> tuple[str, ...]:
    """The ids of the missing patches that fix a finding: by the parameters, by symptoms, or by what shows."""
    if finding.unused:
        return patches_for_unused(finding.unused, models, missing)
    at_stage = [patch for patch in missing if set(finding.stages) & set(stages_of(patch))]
    if finding.outcome == "error":
        at_stage = [patch for patch in at_stage if any(words in finding.message for words in patch.symptoms)]
    return tuple(patch.id for patch in at_stage)


def stages_of(patch: Patch) -> list[str]:
    """The stages at which the cases of a patch show it, but for those on Spark."""
    return [case.stage for case in patch.cases if case.launchers != ("spark",)]


def patches_for_unused(unused: Sequence[str], models: Sequence[str], missing: Sequence[Patch]) -> tuple[str, ...]:
    """The ids of the patches of these models that account for unused parameters; no more than it takes."""
    found: dict[str, set[str]] = {}
    for patch in missing:
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
