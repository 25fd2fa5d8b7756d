"""`apply` and `revert`: inspect the install, plan the changes, and commit them under the lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Callable, NamedTuple, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import InstallEnvironmentError, RefusedError
from nfpatch.installs.find import Install
from nfpatch.installs.ledger import ledger_path
from nfpatch.installs.lock import LOCK_TIMEOUT_SECONDS, locked
from nfpatch.installs.transaction import commit, has_leftovers, is_interrupted, recover
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import PartialPlan, TreeChange, changes_to, plan_apply, plan_partial, plan_revert
from nfpatch.patching.steps import backup_path, state_after, steps_for


class PartlyRefused(RefusedError):
    """Some of the needed patches cannot be applied. `plan` has those that can, with the user's consent if needed."""

    def __init__(self, message: str, plan: PartialPlan, needs_consent: bool) -> None:
        super().__init__(message)
        self.plan, self.needs_consent = plan, needs_consent


class OperationResult(NamedTuple):
    """The result of `apply` or `revert`.

    `state` is the install afterwards. `changed_patches` were applied or reverted, `renewed` were outdated and are up to
    date now. `backups` are the copies of edited files that were kept because of `force`. `recovered` is whether an
    interrupted run was completed first. `left_out` maps patches that are needed but do not fit to the reason.
    """

    state: InstallState
    changes: tuple[TreeChange, ...]
    changed_patches: tuple[Patch, ...] = ()
    renewed: tuple[Patch, ...] = ()
    backups: tuple[Path, ...] = ()
    recovered: bool = False
    left_out: Mapping[str, str] = MappingProxyType({})

    @property
    def changed(self) -> tuple[str, ...]:
        """The paths of the files that were changed, added or removed, sorted."""
        return tuple(sorted(change.file for change in self.changes if change.current != change.desired))


def apply(
    install: Install,
    catalog: Catalog,
    patches: Sequence[Patch],
    allow_modified: bool = False,
    allow_editable: bool = False,
    force: bool = False,
    dry_run: bool = False,
    lock_timeout: float = LOCK_TIMEOUT_SECONDS,
    renew_all: bool = False,
    seen: Optional[InstallState] = None,
    keep_going: bool = False,
) -> OperationResult:
    """Apply those of these patches that the install needs, in addition to those that it has.

    `seen` is the state of the install if the caller has just inspected it. With `renew_all`, all outdated patches are
    renewed. With `keep_going`, patches that do not fit are left out. With `dry_run`, the changes are computed, but
    nothing is written. Raises RefusedError or InstallEnvironmentError, with nothing changed: PartlyRefused if some of
    the patches fit.
    """
    left_out: dict[str, str] = {}

    def wanted(state: InstallState) -> Mapping[str, frozenset[str]]:
        plan = PartialPlan(tuple(patches), {})
        if keep_going and not state.interrupted:
            plan = plan_partial(state, patches, allow_modified, force)
            left_out.clear()
            left_out.update(plan.left_out)
        sets = plan_apply(state, plan.patches, allow_modified, renew_all)
        if sets and not (allow_editable or dry_run):
            refuse_checkout(install)
        return sets

    state = seen or inspect_install(install, catalog)
    try:
        outcome = _move(install, catalog, state, wanted, allow_modified, force, dry_run, lock_timeout)
    except RefusedError as error:
        if state.interrupted or state.ledger_problem is not None:
            raise
        plan, with_consent = (plan_partial(state, patches, consent, force) for consent in (allow_modified, True))
        if keep_going or not plan.left_out or not with_consent.patches:
            raise
        needs_consent = allow_modified or plan.patches != with_consent.patches
        raise PartlyRefused(str(error), with_consent, needs_consent) from error
    return outcome._replace(left_out=left_out)


def refuse_checkout(install: Install) -> None:
    """Raise RefusedError if the install is a source checkout, which is changed only with the user's consent."""
    if install.kind != "regular":
        raise RefusedError(
            f"{install.package} is a source checkout: nfpatch would change files that are under version control. Patch "
            "an installed copy instead, or allow it: `--allow-editable`."
        )


def revert(
    install: Install,
    catalog: Catalog,
    patches: Sequence[Patch],
    force: bool = False,
    dry_run: bool = False,
    lock_timeout: float = LOCK_TIMEOUT_SECONDS,
    seen: Optional[InstallState] = None,
) -> OperationResult:
    """Revert these patches; without patches, restore all originals.

    `seen` is the state of the install if the caller has just inspected it. Raises RefusedError or
    InstallEnvironmentError, with nothing changed.
    """

    def wanted(state: InstallState) -> Mapping[str, frozenset[str]]:
        return plan_revert(state, patches)

    # If there is a ledger, there is something to do: inspecting the install once, under the lock, is enough
    is_certain = not (patches or dry_run) and ledger_path(install).exists()
    state = seen or (None if is_certain else inspect_install(install, catalog))
    # the patches that stay were allowed on these files when they were applied
    return _move(install, catalog, state, wanted, True, force, dry_run, lock_timeout)


def _move(
    install: Install,
    catalog: Catalog,
    state: Optional[InstallState],
    wanted: Callable[[InstallState], Mapping[str, frozenset[str]]],
    allow_modified: bool,
    force: bool,
    dry_run: bool,
    lock_timeout: float,
) -> OperationResult:
    """Bring the install to the `wanted` patch sets; `state` is None if it was not inspected yet."""
    if state is not None and dry_run and state.interrupted:
        raise RefusedError(
            "An interrupted run left its work unfinished. Run the command without --dry-run to complete it."
        )
    # Inspection needs neither the lock nor write access, so a read-only image that is already patched is no error
    if state is not None and (dry_run or not (state.interrupted or wanted(state))):
        if not dry_run and has_leftovers(install):
            with suppress(InstallEnvironmentError), locked(install, lock_timeout):
                recover(install)
        return OperationResult(state, changes_to(state, wanted(state), allow_modified, force))
    with locked(install, lock_timeout):
        recovered = is_interrupted(install)
        recover(install)
        state = inspect_install(install, catalog)
        changes = changes_to(state, wanted(state), allow_modified, force)
        after = state_after(state, changes)
        backups = tuple(backup_path(install, change) for change in changes if change.needs_backup)
        if changes:
            commit(install, steps_for(state, changes, after.ledger))
        changed_ids = state.ledger.patch_ids ^ after.ledger.patch_ids
        changed_patches = tuple(patch for patch in catalog.patches if patch.id in changed_ids)
        renewed = tuple(
            patch for patch in state.outdated if patch.id in after.ledger.patch_ids and not after.differences(patch)
        )
        return OperationResult(after, changes, changed_patches, renewed, backups, recovered)
