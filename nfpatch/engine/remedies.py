"""Which patches of the catalog fix a finding."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from nfpatch.catalog import Patch
from nfpatch.engine.facts import Finding


def patches_for(finding: Finding, models: Sequence[str], missing: Sequence[Patch]) -> tuple[str, ...]:
    """The ids of the missing patches that fix a finding: by its unused parameters, or by its stage and symptoms."""
    if finding.unused:
        return patches_for_unused(finding.unused, models, missing)
    return tuple(
        patch.id
        for patch in missing
        if any(case.stage in finding.stages and case.launchers != ("spark",) for case in patch.cases)
        and (finding.outcome != "error" or any(words in finding.message for words in patch.symptoms))
    )


def patches_for_unused(unused: Sequence[str], models: Sequence[str], missing: Sequence[Patch]) -> tuple[str, ...]:
    """The ids of the patches of these models that handle unused parameters; no more of them than necessary."""
    named = {"any", *models, *(model.removeprefix("Auto") for model in models)}
    handled = {
        patch.id: {name for name in unused if any(fnmatchcase(name, each) for each in patch.unused_parameters)}
        for patch in missing
        if patch.model in named
    }
    needed: list[str] = []
    left = set(unused)
    for patch_id in sorted(handled, key=lambda each: -len(handled[each])):
        if handled[patch_id] & left:
            needed.append(patch_id)
            left -= handled[patch_id]
    return tuple(sorted(needed))
