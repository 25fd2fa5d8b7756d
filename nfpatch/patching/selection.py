"""Which patches a command is about: what was selected on its command line, in the light of what the install needs.

Pure: these functions look at a survey and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from nfpatch.catalog import DEFAULT_GROUPS, Patch, Selection
from nfpatch.patching.survey import PatchStatus, Survey


class Choice(NamedTuple):
    """The patches that `apply` puts in or `revert` takes out, in catalog order.

    `brought_along` are those that were not selected, with the reason why they are among them, and `renewed` those that
    another version of nfpatch had applied. For `revert`, no patches stand for all that is applied.
    """

    patches: tuple[Patch, ...]
    brought_along: Mapping[str, str] = MappingProxyType({})
    renewed: tuple[str, ...] = ()


def is_applied(found: Survey, status: PatchStatus) -> bool:
    """Whether the patch was applied here, be it that its files were changed since."""
    if status.state in ("applied", "outdated"):
        return True
    return any(status.patch.id in entry.patches for entry in found.ledger.files.values())


def choice_for_apply(found: Survey, selection: Selection) -> Choice:
    """What `apply` of this selection is about.

    That is what was named by its id, the other patches of named groups that are not opt-in, what of those is outdated,
    and what all of these require. Where nothing was named: the default groups, and everything that is outdated.
    """
    catalog = found.catalog
    states = {patch.id: found.status_of(patch).state for patch in catalog.patches}
    renewed = tuple(patch.id for patch in selection.patches if states[patch.id] == "outdated")
    chosen = {patch.id for patch in selection.patches if is_selected(selection, patch)}.union(renewed)
    wanting = [patch_id for patch_id in chosen if states[patch_id] != "not-needed"]
    brought_along = {
        patch_id: f"{_requiring(found, patch_id, wanting)} requires it"
        for patch_id in catalog.ordered(catalog.with_required(wanting) - chosen)
        if states[patch_id] not in ("applied", "not-needed")
    }
    patches = tuple(patch for patch in catalog.patches if patch.id in chosen or patch.id in brought_along)
    return Choice(patches, brought_along, renewed)


def choice_for_revert(found: Survey, selection: Selection) -> Choice:
    """What `revert` of named patches is about: those, and what is applied and requires one of them."""
    catalog = found.catalog
    selected = [patch.id for patch in selection.patches]
    brought_along = {
        patch_id: f"it requires {', '.join(catalog.ordered(catalog.with_required([patch_id]) & {*selected}))}"
        for patch_id in catalog.ordered(catalog.with_requiring(selected) - {*selected})
        if is_applied(found, found.status_of(_patch(found, patch_id)))
    }
    patches = tuple(patch for patch in catalog.patches if patch.id in selected or patch.id in brought_along)
    return Choice(patches, brought_along)


def unmet(found: Survey, selection: Selection) -> tuple[PatchStatus, ...]:
    """The patches that make `status --check` fail: needed and not applied, or applied and changed since.

    Looked at are the default groups, or those that were named, and what is applied; an opt-in patch that is not
    applied only where it was named by its id.
    """
    return tuple(
        status
        for status in map(found.status_of, selection.patches)
        if status.state not in ("applied", "not-needed")
        if status.state == "interrupted" or is_applied(found, status) or is_selected(selection, status.patch)
    )


def is_selected(selection: Selection, patch: Patch) -> bool:
    """Whether the selection asks for this patch, applied or not: by its id, its group, or as one of a default group."""
    if patch.id in selection.ids:
        return True
    return not patch.opt_in and (patch.group in DEFAULT_GROUPS or not selection.is_default)


def _patch(found: Survey, patch_id: str) -> Patch:
    (patch,) = found.catalog.select([patch_id])
    return patch


def _requiring(found: Survey, patch_id: str, among: list[str]) -> str:
    """Those of these patches that require this one."""
    requiring = [other for other in among if patch_id in found.catalog.with_required([other])]
    return ", ".join(found.catalog.ordered(requiring))
