"""`apply` and `revert`: look, plan, and move the install there under the lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Callable, NamedTuple, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import EnvironmentProblem, Refused
from nfpatch.installs.find import Install
from nfpatch.installs.ledger import ledger_path
from nfpatch.installs.lock import LOCK_TIMEOUT_SECONDS, locked
from nfpatch.installs.transaction import commit, has_litter, is_interrupted, recover
from nfpatch.patching.plan import Fit, TreeChange, changes_to, fitting, wanted_by_apply, wanted_by_revert
from nfpatch.patching.steps import saved_path, steps_for, survey_after
from nfpatch.patching.survey import Survey, survey


class PartlyRefused(Refused):
    """Not all patches that are needed can be applied as was asked. `fit` says which can, if need be with consent."""

    def __init__(self, words: str, fit: Fit, needs_consent: bool) -> None:
        super().__init__(words)
        self.fit, self.needs_consent = fit, needs_consent


class Outcome(NamedTuple):
    """What an operation came to.

    `found` is the install afterwards, `moved` are the patches that were put in or taken out, `renewed` those that were
    outdated and are no longer, `saved` the copies of edited files that `force` had kept, and `recovered` tells whether
    a killed run was completed first. `left_out` are the patches that are needed and do not fit, with what is in the
    way.
    """

    found: Survey
    changes: tuple[TreeChange, ...]
    moved: tuple[Patch, ...] = ()
    renewed: tuple[Patch, ...] = ()
    saved: tuple[Path, ...] = ()
    recovered: bool = False
    left_out: Mapping[str, str] = MappingProxyType({})

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
    keep_going: bool = False,
) -> Outcome:
    """Bring the install to its present patch set plus these patches; those that it does not need are left out.

    `seen` is a survey of the install that the caller has just made. With `renew_all` every applied patch that is
    outdated is written again as well. With `keep_going` the patches that do not fit are left out. With `dry_run` the
    changes are computed and nothing is written. Raises Refused or EnvironmentProblem with nothing changed; it is a
    PartlyRefused where some patches fit and others do not.
    """
    left_out: dict[str, str] = {}

    def wanted(found: Survey) -> Mapping[str, frozenset[str]]:
        fit = Fit(tuple(patches), {})
        if keep_going and not found.interrupted:
            fit = fitting(found, patches, allow_modified, force)
            left_out.clear()
            left_out.update(fit.left_out)
        sets = wanted_by_apply(found, fit.patches, allow_modified, renew_all)
        if sets and not (allow_editable or dry_run):
            refuse_checkout(install)
        return sets

    found = seen or survey(install, catalog)
    try:
        outcome = _move(install, catalog, found, wanted, allow_modified, force, dry_run, lock_timeout)
    except Refused as error:
        if found.interrupted or found.ledger_problem is not None:
            raise
        fit, with_consent = (fitting(found, patches, consent, force) for consent in (allow_modified, True))
        if keep_going or not fit.left_out or not with_consent.patches:
            raise
        needs_consent = allow_modified or fit.patches != with_consent.patches
        raise PartlyRefused(str(error), with_consent, needs_consent) from error
    return outcome._replace(left_out=left_out)


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

    # Where a ledger says that patches are applied, there is something to do: one look, under the lock, is enough.
    is_certain = not (patches or dry_run) and ledger_path(install).exists()
    found = seen or (None if is_certain else survey(install, catalog))
    # a patch that stays was allowed on this file when it was applied
    return _move(install, catalog, found, wanted, True, force, dry_run, lock_timeout)


def _move(
    install: Install,
    catalog: Catalog,
    found: Optional[Survey],
    wanted: Callable[[Survey], Mapping[str, frozenset[str]]],
    allow_modified: bool,
    force: bool,
    dry_run: bool,
    lock_timeout: float,
) -> Outcome:
    """Carry out what is `wanted` of the install, which was `found` so; None where it was not looked at yet."""
    if found is not None and dry_run and found.interrupted:
        raise Refused("A killed run left work half done here. Run the command without --dry-run to complete it first.")
    # Looking needs neither the lock nor the right to write, so an image that is read-only and patched already is fine.
    if found is not None and (dry_run or not (found.interrupted or wanted(found))):
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
