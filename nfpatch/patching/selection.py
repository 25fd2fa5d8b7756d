"""Which patches a command applies to: those that its command line selects, given what the install needs.

These functions read the state of an install and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from nfpatch.catalog import DEFAULT_GROUPS, Patch, Selection
from nfpatch.patching.install_state import InstallState, PatchStatus


class Choice(NamedTuple):
    """The patches that `apply` applies or `revert` reverts, in catalog order.

    `brought_along` maps those that were not selected to the reason why they are among them. `renewed` are those that
    were applied by another version of nfpatch. For `revert`, no patches means all that are applied.
    """

    patches: tuple[Patch, ...]
    brought_along: Mapping[str, str] = MappingProxyType({})
    renewed: tuple[str, ...] = ()


def is_applied(state: InstallState, status: PatchStatus) -> bool:
    """Whether the patch was applied here, even if its files were changed since."""
    if status.state in ("applied", "outdated"):
        return True
    return any(status.patch.id in entry.patches for entry in state.ledger.files.values())


def choice_for_apply(state: InstallState, selection: Selection) -> Choice:
    """The patches that `apply` of this selection applies.

    These are the patches named by id, those of the named groups that are not opt-in or that are outdated, and all that
    these require. If nothing is named: the default groups and all outdated patches.
    """
    catalog = state.catalog
    states = {patch.id: state.status_of(patch).state for patch in catalog.patches}
    renewed = tuple(patch.id for patch in selection.patches if states[patch.id] == "outdated")
    chosen = {patch.id for patch in selection.patches if is_selected(selection, patch)}.union(renewed)
    wanting = [patch_id for patch_id in chosen if states[patch_id] != "not-needed"]
    brought_along = {
        patch_id: f"{_requiring(state, patch_id, wanting)} requires it"
        for patch_id in catalog.ordered(catalog.with_required(wanting) - chosen)
        if states[patch_id] not in ("applied", "not-needed")
    }
    patches = tuple(patch for patch in catalog.patches if patch.id in chosen or patch.id in brought_along)
    return Choice(patches, brought_along, renewed)


def choice_for_revert(state: InstallState, selection: Selection) -> Choice:
    """The patches that `revert` of this selection reverts: the selected ones, and applied ones that require them."""
    if selection.is_default:
        return Choice(())
    catalog = state.catalog
    selected = [patch.id for patch in selection.patches]
    brought_along = {
        patch_id: f"it requires {', '.join(catalog.ordered(catalog.with_required([patch_id]) & {*selected}))}"
        for patch_id in catalog.ordered(catalog.with_requiring(selected) - {*selected})
        if is_applied(state, state.status_of(_patch(state, patch_id)))
    }
    patches = tuple(patch for patch in catalog.patches if patch.id in selected or patch.id in brought_along)
    return Choice(patches, brought_along)


def unmet(state: InstallState, selection: Selection) -> tuple[PatchStatus, ...]:
    """The patches that make `status --check` fail: needed and not applied, or applied and changed since.

    This considers the default or named groups, and all applied patches; opt-in patches that are not applied, only if
    they are named by id.
    """
    return tuple(
        status
        for status in map(state.status_of, selection.patches)
        if status.state not in ("applied", "not-needed")
        if status.state == "interrupted" or is_applied(state, status) or is_selected(selection, status.patch)
    )


def is_selected(selection: Selection, patch: Patch) -> bool:
    """Whether the selection includes this patch, applied or not: by its id, by its group, or by default."""
    if patch.id in selection.ids:
        return True
    return not patch.opt_in and (patch.group in DEFAULT_GROUPS or not selection.is_default)


def _patch(state: InstallState, patch_id: str) -> Patch:
    (patch,) = state.catalog.select([patch_id])
    return patch


def _requiring(state: InstallState, patch_id: str, among: list[str]) -> str:
    """Those of these patches that require this one."""
    requiring = [other for other in among if patch_id in state.catalog.with_required([other])]
    return ", ".join(state.catalog.ordered(requiring))
