"""The source of neuralforecast that a run uses: released, installed, or patched as `apply` would patch it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, Optional

from nfpatch.catalog import Patch
from nfpatch.errors import RefusedError
from nfpatch.installs.find import RUNTIME_FOLDER, Install
from nfpatch.patching.install_state import InstallState
from nfpatch.patching.plan import changes_to, originals_of, plan_apply

Source = Literal["released", "installed", "patched"]
# The files, by path, in which a source differs from the installed one; None for a file that it does not have.
Tree = Mapping[str, Optional[bytes]]


def check_not_interrupted(state: InstallState) -> None:
    """Raises RefusedError where a killed run left the install half done."""
    if state.interrupted:
        raise RefusedError("A killed run left this install half done. Run `nfpatch apply` or `nfpatch revert` first.")


def tree_of(state: InstallState, source: Source) -> Tree:
    """The files of a source; the patched one has all default patches. Raises RefusedError if they are not known."""
    check_not_interrupted(state)
    if source == "installed":
        return {}
    if source == "patched":
        return patched_tree(state, plan_apply(state, state.catalog.default, renew_all=True))
    for status in state.statuses:
        if status.state == "applied" and not set(status.files) <= set(state.ledger.files):
            raise RefusedError(
                f"{status.patch.id} was applied elsewhere, and its original is not kept here, so the released source "
                "is not known. Leave --source out, or reinstall the release."
            )
    return originals_of(state)


def patched_tree(
    state: InstallState, wanted: Mapping[str, frozenset[str]], allow_modified: bool = False, force: bool = False
) -> Tree:
    """The files that change where each of those in `wanted` has exactly these patches."""
    return {change.file: change.desired for change in changes_to(state, wanted, allow_modified, force)}


def missing_patches(state: InstallState, source: Source) -> list[Patch]:
    """The patches for this release, except opt-in ones, that this source does not have."""
    if source == "patched":
        return []
    useful = [status for status in state.statuses if status.files and not status.patch.opt_in]
    return [status.patch for status in useful if source == "released" or status.state not in ("applied", "outdated")]


def build_source(install: Install, tree: Tree, folder: Path) -> Optional[Path]:
    """A source with these files, in `folder`; None, which stands for the installed one, where nothing differs."""
    return build_overlay(install.package, folder, tree) if tree else None


def build_overlay(package: Path, folder: Path, replacements: Tree) -> Path:
    """Copies `package` into `folder` with some files replaced, and returns `folder`, to be put on `sys.path`.

    `package` is the installed `neuralforecast/` folder; it stays untouched, and nothing of the copy is linked to it.
    `replacements` are by POSIX path relative to the folder that holds the package; a file whose content is None is left
    out. Runtime modules are added where the package has none. `folder` must not hold the package yet.

    Raises ValueError for any other path that the package does not have: such a replacement would have no effect.
    """
    for parent, folders, names in os.walk(package, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for file in (Path(parent, name) for name in names):
            path = file.relative_to(package.parent).as_posix()
            _write_copy(folder / path, replacements[path] if path in replacements else file.read_bytes())
    for path in sorted(path for path in replacements if not (package.parent / path).is_file()):
        if PurePosixPath(path).parent != PurePosixPath(RUNTIME_FOLDER):
            raise ValueError(f"not in the package {package}: {path}")
        _write_copy(folder / path, replacements[path])
    return folder


def _write_copy(target: Path, content: Optional[bytes]) -> None:
    if content is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Contents only: files of an install may be read-only, and hard links of a cache that others share.
    with target.open("xb") as file:
        file.write(content)


def is_imported_from(file: Optional[str], folder: Path) -> bool:
    """Whether the package with this `__init__.py` is in the folder; a namespace package, which has none, is not."""
    return file is not None and Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))
