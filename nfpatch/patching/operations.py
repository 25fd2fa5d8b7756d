"""`apply` and `revert`: look, plan, and move the install there under the lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import EnvironmentProblem, Refused
from nfpatch.installs.find import Install
from nfpatch.installs.lock import LOCK_TIMEOUT_SECONDS, locked
from nfpatch.installs.transaction import commit, has_litter, is_interrupted, recover
from nfpatch.patching.plan import TreeChange, changes_to, wanted_by_apply, wanted_by_revert
from nfpatch.patching.steps import saved_path, steps_for, survey_after
from nfpatch.patching.survey import Survey, survey


class Outcome(NamedTuple):
    """What an operation came to.

    `found` is the install afterwards, `moved` are the patches that were put in or taken out, `renewed` those that were
    outdated and are no longer, `saved` the copies of edited files that `force` had kept, and `recovered` tells whether
    a killed run was completed first.
    """

    found: Survey
    changes: tuple[TreeChange, ...]
    moved: tuple[Patch, ...] = ()
    renewed: tuple[Patch, ...] = ()
    saved: tuple[Path, ...] = ()
    recovered: bool = False

    @property
    def changed(self) -> tuple[str, ...]:
        """The files whose bytes are others now, added and removed ones included, by path."""
        return tuple(sorted(change.file for change in self.changes if change.now != change.then))


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
    seen: Optional[Survey] = None,
) -> Outcome:
    """Bring the install to its present patch set plus these patches; those that it does not need are left out.

    `seen` is a survey of the install that the caller has just made. With `renew_all` every applied patch that is
    outdated is written again as well. With `dry_run` the changes are computed and nothing is written. Raises Refused or
    EnvironmentProblem with nothing changed.
    """

    def wanted(found: Survey) -> Mapping[str, frozenset[str]]:
        sets = wanted_by_apply(found, patches, allow_modified, renew_all)
        if sets and not (allow_editable or dry_run):
            refuse_checkout(install)
        return sets

    return _move(seen or survey(install, catalog), wanted, allow_modified, force, dry_run, lock_timeout)


def refuse_checkout(install: Install) -> None:
    """Raises Refused where the install is a source checkout, which is changed with consent only."""
    if install.kind != "regular":
        raise Refused(
            f"{install.package} is a source checkout, not an installed copy: nfpatch would change files that you have "
            "under version control. Patch an installed copy instead, or say that you mean it: `--allow-editable`."
        )


def revert(
    install: Install,
    catalog: Catalog,
    patches: Sequence[Patch],
    force: bool = False,
    dry_run: bool = False,
    lock_timeout: float = LOCK_TIMEOUT_SECONDS,
    seen: Optional[Survey] = None,
) -> Outcome:
    """Bring the install to its present patch set less these patches; without patches, to the originals.

    `seen` is a survey of the install that the caller has just made. Raises Refused or EnvironmentProblem with nothing
    changed.
    """

    def wanted(found: Survey) -> Mapping[str, frozenset[str]]:
        return wanted_by_revert(found, patches)

    # a patch that stays was allowed on this file when it was applied
    return _move(seen or survey(install, catalog), wanted, True, force, dry_run, lock_timeout)


def _move(
    found: Survey,
    wanted: Callable[[Survey], Mapping[str, frozenset[str]]],
    allow_modified: bool,
    force: bool,
    dry_run: bool,
    lock_timeout: float,
) -> Outcome:
    install, catalog = found.install, found.catalog
    if dry_run and found.interrupted:
        raise Refused("A killed run left work half done here. Run the command without --dry-run to heal it first.")
    # Looking needs neither the lock nor the right to write, so an image that is read-only and healed already is fine.
    if dry_run or not (found.interrupted or wanted(found)):
        if not dry_run and has_litter(install):
            with suppress(EnvironmentProblem), locked(install, lock_timeout):
                recover(install)
        return Outcome(found, changes_to(found, wanted(found), allow_modified, force))
    with locked(install, lock_timeout):
        recovered = is_interrupted(install)
        recover(install)
        found = survey(install, catalog)
        changes = changes_to(found, wanted(found), allow_modified, force)
        after = survey_after(found, changes)
        saved = tuple(saved_path(install, change) for change in changes if change.saves)
        if changes:
            commit(install, steps_for(found, changes))
        moved_ids = found.ledger.patch_ids ^ after.ledger.patch_ids
        moved = tuple(patch for patch in catalog.patches if patch.id in moved_ids)
        renewed = tuple(
            patch for patch in found.outdated if patch.id in after.ledger.patch_ids and not after.differences(patch)
        )
        return Outcome(after, changes, moved, renewed, saved, recovered)
