"""The source of neuralforecast that a run uses: released, installed, or patched as `apply` would patch it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Optional

from nfpatch.catalog import Patch
from nfpatch.engine.overlay import build_overlay
from nfpatch.errors import RefusedError
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState
from nfpatch.patching.plan import changes_to, originals_of, plan_apply

Source = Literal["released", "installed", "patched"]
# The files, by path, in which a source differs from the installed one; None for a file that it does not have.
Tree = Mapping[str, Optional[bytes]]


def check_not_interrupted(found: InstallState) -> None:
    """Raises RefusedError where a killed run left the install half done."""
    if found.interrupted:
        raise RefusedError("A killed run left this install half done. Run `nfpatch apply` or `nfpatch revert` first.")


def tree_of(found: InstallState, source: Source) -> Tree:
    """The files of a source; the patched one has all default patches. Raises RefusedError if they are not known."""
    check_not_interrupted(found)
    if source == "installed":
        return {}
    if source == "patched":
        return patched_tree(found, plan_apply(found, found.catalog.default, renew_all=True))
    for status in found.statuses:
        if status.state == "applied" and not set(status.files) <= set(found.ledger.files):
            raise RefusedError(
                f"{status.patch.id} was applied elsewhere, and its original is not kept here, so the released source "
                "is not known. Leave --source out, or reinstall the release."
            )
    return originals_of(found)


def patched_tree(
    found: InstallState, wanted: Mapping[str, frozenset[str]], allow_modified: bool = False, force: bool = False
) -> Tree:
    """The files that change where each of those in `wanted` has exactly these patches."""
    return {change.file: change.desired for change in changes_to(found, wanted, allow_modified, force)}


def missing_patches(found: InstallState, source: Source) -> list[Patch]:
    """The patches that the release has a use for and this source of it does not have."""
    if source == "patched":
        return []
    useful = [status for status in found.statuses if status.files and not status.patch.opt_in]
    return [status.patch for status in useful if source == "released" or status.state not in ("applied", "outdated")]


def build_source(install: Install, tree: Tree, folder: Path) -> Optional[Path]:
    """A source with these files, in `folder`; None, which stands for the installed one, where nothing differs."""
    return build_overlay(install.package, folder, tree) if tree else None
