"""Computes the changes that give an install another set of patches.

Reads the install, and writes nothing. Everything follows from one rule:

    desired tree = the originals with the edits of the applied patches + the runtime modules that these need
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

from nfpatch.catalog import Patch
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.errors import RefusedError
from nfpatch.fingerprints import RecordedPatch
from nfpatch.installs.find import Install, module_file
from nfpatch.installs.ledger import AppliedPatch, hash_of, read_original
from nfpatch.installs.origin import commit_of, reinstall_command
from nfpatch.patching.install_state import InstallState, PatchStatus

# The patches that each of these files should have; all other files keep theirs.
PatchSets = Mapping[str, frozenset[str]]


class FileChange(NamedTuple):
    """The change of one file of neuralforecast.

    `current` is its content (None if it is missing), and `patches` has the entry of each of its patches afterwards, in
    catalog order. `needs_backup` means that the current content has edits of the user, so a copy is kept.
    """

    file: str
    current: Optional[bytes]
    desired: bytes
    original_sha256: str
    patches: Mapping[str, AppliedPatch]
    needs_backup: bool = False


class ModuleChange(NamedTuple):
    """The change of one runtime module, which is removed if `desired` is None. `needs_backup` as in FileChange."""

    file: str
    current: Optional[bytes]
    desired: Optional[bytes]
    needs_backup: bool = False


TreeChange = Union[FileChange, ModuleChange]


def changes_to(
    state: InstallState, wanted: PatchSets, allow_modified: bool = False, force: bool = False
) -> tuple[TreeChange, ...]:
    """The changes that give each file in `wanted` exactly that set of patches, and the install the modules they need.

    A file that is neither the released one nor patched by nfpatch serves as the original only with `allow_modified`.
    A file that was edited after nfpatch wrote it is overwritten, and a copy kept, only with `force`. Raises
    RefusedError if a file is not as expected, or if a result does not have its fingerprint.
    """
    files = [_change_to(state, file, ids, allow_modified, force) for file, ids in sorted(wanted.items())]
    before = {file: entry.patches for file, entry in state.ledger.files.items()}
    changed = [
        change for change in files if change.current != change.desired or change.patches != before.get(change.file, {})
    ]
    return (*changed, *_module_changes(state, files, force))


def original_with(state: InstallState, ids: frozenset[str], allow_modified: bool = False) -> dict[str, bytes]:
    """The originals with only these patches: the files that they rewrite and the modules that they need, by path.

    Raises what `changes_to` raises.
    """
    catalog = state.catalog
    by_file: dict[str, set[str]] = {}
    modules: dict[str, bytes] = {}
    for patch in (patch for patch in catalog.patches if patch.id in ids):
        for file in state.variant_of(patch).files:
            by_file.setdefault(file, set()).add(patch.id)
        for name in state.modules_for(patch):
            modules[module_file(name)] = catalog.modules[name]
    files = {
        file: _change_to(state, file, frozenset(own), allow_modified, force=True).desired
        for file, own in by_file.items()
    }
    return {**files, **modules}


def originals_of(state: InstallState) -> dict[str, Optional[bytes]]:
    """The original content, by path, of each file that nfpatch changed; None for files that it added.

    Raises RefusedError if an original is missing.
    """
    files = state.ledger.files.items()
    originals = {file: read_original(state.install, file, entry.original_sha256) for file, entry in files}
    return {**originals, **dict.fromkeys(state.ledger.added)}


# --- files ---


def _change_to(state: InstallState, file: str, ids: frozenset[str], allow_modified: bool, force: bool) -> FileChange:
    install, entry, current = state.install, state.ledger.files.get(file), state.contents[file]
    path = install.file(file)
    needs_backup = False
    if entry is None:
        if current is None:
            raise RefusedError(f"{path} is missing. Reinstall neuralforecast: {reinstall_command(install)}.")
        original, original_sha256 = current, hash_of(current)
    else:
        original, original_sha256 = read_original(install, file, entry.original_sha256), entry.original_sha256
        known = current is not None and hash_of(current) in (entry.patched_sha256, original_sha256)
        if not known and not force:
            raise _edited(path, current)
        needs_backup = not known and current is not None
    desired, patches = _patched(state, file, original, original_sha256, ids, allow_modified)
    return FileChange(file, current, desired, original_sha256, patches, needs_backup)


def _edited(path: Path, current: Optional[bytes]) -> RefusedError:
    return RefusedError(
        f"{path} was {'removed' if current is None else 'changed'} after nfpatch wrote it. Undo that change, or let "
        "nfpatch overwrite the file and keep a copy of it next to it: `--force`."
    )


def _patched(
    state: InstallState, file: str, original: bytes, original_sha256: str, ids: frozenset[str], allow_modified: bool
) -> tuple[bytes, dict[str, AppliedPatch]]:
    """The original with the edits of these patches, and the entry of each patch, in catalog order.

    The edits are compared with the fingerprints if there are any.
    """
    if not ids:
        return original, {}
    version, path = state.install.version, state.install.file(file)
    recorded = _recorded(state, file, original_sha256, ids)
    if not (allow_modified or ids <= recorded.keys() or file in state.ledger.files):
        raise RefusedError(
            f"{path} is not the file of neuralforecast {version}, or its result has no fingerprint. Restore the "
            "released file, or let nfpatch patch it where the code matches exactly: `--allow-modified`."
        )
    from nfpatch.patching.edits import Edit, apply_edits, digest_edits, merge_adjacent
    from nfpatch.patching.rewriting import check_parses, edits_of
    from nfpatch.patching.source import SourceFile

    source, edits = SourceFile(original), dict[str, tuple[Edit, ...]]()
    is_known_original = original == state.variants.original(file)
    rewrites = _rewrites(state, file, ids)
    try:
        for patch_id, rewrite in rewrites.items():
            try:
                if patch_id not in recorded and is_known_original:
                    edits[patch_id] = merge_adjacent(state.variants.edits(file, rewrite))
                else:
                    edits[patch_id] = edits_of(rewrite, source, fingerprinted=patch_id in recorded)
            except CodemodRefused as error:
                raise CodemodRefused(f"for {patch_id}, {error}") from error
            if patch_id in recorded and digest_edits(edits[patch_id]) != recorded[patch_id].sha256:
                raise RefusedError(
                    f"The result of {patch_id} in {path} does not match its fingerprint, so nothing was written. This "
                    "is a bug of nfpatch or of the installed LibCST: please report it with the output of `pip list`."
                )
        result = apply_edits(original, edits)
        if not ids <= recorded.keys():
            check_parses(result)
    except CodemodRefused as error:
        raise RefusedError(f"{path} is not what the patch expects: {error}. The file was not changed.") from error
    modules = {patch_id: state.catalog.modules_of(rewrite) for patch_id, rewrite in rewrites.items()}
    return result, {name: AppliedPatch(digest_edits(own), modules[name]) for name, own in edits.items()}


def _recorded(state: InstallState, file: str, original_sha256: str, ids: frozenset[str]) -> Mapping[str, RecordedPatch]:
    """The fingerprints of those of these patches that use the variant of the release."""
    catalog, version = state.catalog, state.install.version
    known = catalog.fingerprints.file(version, file)
    if known is None or known.sha256 != original_sha256:
        return {}
    own = [p.id for p in _known(state, ids) if state.variant_of(p).rewrites is catalog.rewrites_for(p, version)]
    return {patch_id: known.patches[patch_id] for patch_id in own if patch_id in known.patches}


def _rewrites(state: InstallState, file: str, ids: frozenset[str]) -> dict[str, Rewrite]:
    """The codemods of these patches in a file by patch id. Raises RefusedError if the catalog lacks one."""
    version = state.install.version
    rewrites = {
        patch.id: rewrite
        for patch in state.catalog.patches
        if patch.id in ids and (rewrite := state.variant_of(patch).rewrites.get(file)) is not None
    }
    for missing in sorted(ids - rewrites.keys()):
        raise RefusedError(
            f"The catalog has no variant of {missing} for neuralforecast {version}; {state.install.file(file)} was not "
            "changed. If it is your own patch, name its folder with --patches DIR."
        )
    return rewrites


# --- runtime modules ---


def _module_changes(state: InstallState, files: Sequence[FileChange], force: bool) -> list[ModuleChange]:
    """The changes that give the install exactly the runtime modules that its patches need then.

    Modules that the patches in these files need are updated from the catalog; all other modules stay unchanged.
    """
    needed = {
        module_file(name): state.catalog.modules[name]
        for change in files
        for applied in change.patches.values()
        for name in applied.modules
    }
    patches: dict[str, Mapping[str, AppliedPatch]] = {file: entry.patches for file, entry in state.ledger.files.items()}
    patches.update({change.file: change.patches for change in files})
    users = {
        (module_file(name), patch_id)
        for carried in patches.values()
        for patch_id, applied in carried.items()
        for name in applied.modules
    }
    staying = {file for file, _ in users} - needed.keys()
    changes = []
    for file in sorted({*needed, *state.ledger.added}):
        if file in staying:
            continue
        current, desired, standing = state.contents.get(file), needed.get(file), state.ledger.added.get(file)
        path = state.install.file(file)
        if file in state.obstacles:
            raise _in_the_way(state.obstacles[file], state.install)
        if standing is None and current is not None:
            raise _in_the_way(f"{path} exists, where nfpatch would add a file", state.install)
        is_new = desired is not None and hash_of(desired) != standing
        if is_new:
            _check_users(state, file, {patch_id for module, patch_id in users if module == file})
        is_known = current in (None, desired) or (current is not None and hash_of(current) == standing)
        is_missing = current is None and desired is not None and standing is not None
        if (is_missing or not is_known) and not force:
            raise _edited(path, current)
        if current != desired or is_new or desired is None:
            changes.append(ModuleChange(file, current, desired, needs_backup=not is_known))
    return changes


def _in_the_way(what: str, install: Install) -> RefusedError:
    return RefusedError(
        f"{what}. nfpatch did not write it, so it does not overwrite it. Move it away, or reinstall neuralforecast: "
        f"{reinstall_command(install)}."
    )


def _check_users(state: InstallState, file: str, ids: set[str]) -> None:
    """Raise RefusedError if this module would be changed for an applied patch that the catalog does not have."""
    for unknown in sorted(ids - {patch.id for patch in state.catalog.patches}):
        raise RefusedError(
            f"{state.install.file(file)} would be renewed, but the applied patch {unknown}, which the catalog does not "
            "have, also needs it. If it is your own patch, name its folder with --patches DIR."
        )


# --- the patches that a command applies or reverts ---


def plan_apply(
    state: InstallState, patches: Sequence[Patch], allow_modified: bool = False, renew_all: bool = False
) -> dict[str, frozenset[str]]:
    """The new patch sets of the files that `apply` of these patches changes; empty if there is nothing to do.

    Outdated patches in these files, and those that need a runtime module that is renewed, are renewed as a whole, so
    that no patch is a mixture of two versions; with `renew_all`, all outdated patches are. For an unknown release,
    `allow_modified` leaves out the patches that do not name it. Raises RefusedError for the first patch that is needed
    and cannot be applied.
    """
    if state.ledger_problem is not None:
        raise RefusedError(state.ledger_problem)
    wanted: dict[str, frozenset[str]] = {}
    unclaimed = []
    for status in map(state.status_of, patches):
        if status.state in ("applied", "not-needed"):
            continue
        if _is_unclaimed(state, status):
            unclaimed.append(status)
            continue
        if state.variant_of(status.patch).kind == "none" and not state.ledger.files_of(status.patch.id):
            raise RefusedError(_why_no_variant_fits(state, status))
        for file, file_state in status.files.items():
            # files that were changed after nfpatch patched them are checked in `changes_to`, which knows --force
            is_fit = file_state in ("applied", "applicable", "outdated")
            if not is_fit and not allow_modified and file not in state.ledger.files:
                raise RefusedError(_why_not(state, status, file))
        wanted = _with_patch(state, wanted, status.patch)
    if unclaimed and (len(unclaimed) == len(patches) or not allow_modified):
        raise RefusedError(_why_no_variant_fits(state, unclaimed[0]))
    for patch in state.outdated if renew_all else ():
        wanted = _with_patch(state, wanted, patch)
    return _with_renewed(state, wanted)


class PartialPlan(NamedTuple):
    """The patches that can be applied together, and the other needed patches, with the reasons why they cannot."""

    patches: tuple[Patch, ...]
    left_out: Mapping[str, str]


def plan_partial(
    state: InstallState, patches: Sequence[Patch], allow_modified: bool = False, force: bool = False
) -> PartialPlan:
    """The patches among these that can be applied, each as a whole and with the patches that it requires.

    Raises RefusedError if the ledger prevents all of them.
    """
    if state.ledger_problem is not None:
        raise RefusedError(state.ledger_problem)
    problems: dict[str, str] = {}
    chosen: list[Patch] = []
    states = {status.patch.id: status for status in map(state.status_of, patches)}
    needed = [
        patch
        for patch in patches
        if states[patch.id].state not in ("applied", "not-needed") and not _is_unclaimed(state, states[patch.id])
    ]

    def why_not(some: Sequence[Patch]) -> str:
        try:
            changes_to(state, plan_apply(state, some, allow_modified), allow_modified, force)
        except RefusedError as error:
            return str(error)
        return ""

    for patch in needed:
        problems[patch.id] = why_not([patch])
    if why_not([patch for patch in needed if not problems[patch.id]]):  # they cannot be applied together
        for patch in needed:
            problems[patch.id] = problems[patch.id] or why_not([*chosen, patch])
            chosen += [] if problems[patch.id] else [patch]
    left_out = {patch_id for patch_id, problem in problems.items() if problem}
    for patch_id in state.catalog.ordered(state.catalog.with_requiring(left_out) & problems.keys()):
        missing = state.catalog.ordered(state.catalog.with_required([patch_id]) & left_out - {patch_id})
        problems[patch_id] = problems[patch_id] or f"it requires {', '.join(missing)}"
    return PartialPlan(
        tuple(patch for patch in needed if not problems[patch.id]),
        {patch_id: problem for patch_id, problem in problems.items() if problem},
    )


def _is_unclaimed(state: InstallState, status: PatchStatus) -> bool:
    """Whether neither the code nor the version of an unknown source shows that it needs the patch."""
    return status.state == "unknown-release" and not state.variant_of(status.patch).rewrites


def plan_revert(state: InstallState, patches: Sequence[Patch]) -> dict[str, frozenset[str]]:
    """The new patch sets of the files that `revert` of these patches changes; without patches, of all of them.

    Outdated patches that stay in these files are renewed as a whole. Raises RefusedError if a file has a patch whose
    original is missing.
    """
    if state.ledger_problem is not None:
        raise RefusedError(state.ledger_problem)
    ids = {patch.id for patch in patches}
    wanted = {
        file: frozenset(entry.patches) - ids if ids else frozenset()
        for file, entry in state.ledger.files.items()
        if not ids or ids & set(entry.patches)
    }
    named = {patch.id for patch in patches or state.catalog.patches}
    for file in sorted(state.contents.keys() - state.ledger.files.keys()):
        for patch_id in sorted(named & (state.detect_patches(file) or frozenset())):
            raise RefusedError(
                f"{state.install.file(file)} has the patch {patch_id}, but its original is missing (the ledger was "
                "deleted, or the file was patched elsewhere). Reinstall neuralforecast to restore the released file: "
                f"{reinstall_command(state.install)}."
            )
    return _with_renewed(state, wanted)


def _with_renewed(state: InstallState, wanted: PatchSets) -> dict[str, frozenset[str]]:
    """These patch sets, with the outdated patches that must be renewed with them.

    A file or a module is always written according to the current catalog, for all patches that are in it or need it. So
    if one of these is outdated, it is renewed in all of its files, which may concern further patches.
    """
    leaving = {patch_id for file, ids in wanted.items() for patch_id in state.ledger.patches_of(file) - ids}
    outdated = {patch.id: patch for patch in state.outdated if patch.id not in leaving}
    while outdated:
        concerned = {patch_id for ids in wanted.values() for patch_id in ids}
        modules = {module for patch in _known(state, concerned) for module in _renewed_modules(state, patch)}
        concerned |= {patch_id for patch_id in state.ledger.patch_ids if modules & state.ledger.added_by(patch_id)}
        more = [outdated.pop(patch_id) for patch_id in sorted(concerned & outdated.keys())]
        if not more:
            break
        for patch in more:
            wanted = _with_patch(state, wanted, patch)
    return dict(wanted)


def _known(state: InstallState, ids: Iterable[str]) -> list[Patch]:
    """Those of these patches that are in the catalog, in catalog order."""
    return [patch for patch in state.catalog.patches if patch.id in ids]


def _renewed_modules(state: InstallState, patch: Patch) -> set[str]:
    """The modules that this patch needs and that differ from those in the catalog."""
    hashes = state.catalog.module_hashes
    names = state.modules_for(patch)
    return {
        module_file(name) for name in names if state.ledger.added.get(module_file(name), "") not in ("", hashes[name])
    }


def _with_patch(state: InstallState, wanted: PatchSets, patch: Patch) -> dict[str, frozenset[str]]:
    """These patch sets, with this patch in exactly the files that the catalog names for it."""
    files = state.variant_of(patch).files
    sets = dict(wanted)
    for file in {*files, *state.ledger.files_of(patch.id)}:
        others = sets.get(file, state.ledger.patches_of(file)) - {patch.id}
        sets[file] = others | {patch.id} if file in files else others
    return sets


def _why_not(state: InstallState, status: PatchStatus, file: str) -> str:
    commit = commit_of(state.install)
    if commit is not None:
        return (
            f"{state.install.package} is commit {commit.short_id} of {commit.repository}, not a release. Let nfpatch "
            "patch it where the code matches exactly, and prove that first: `--allow-modified --prove`."
        )
    if status.state == "modified" and not state.variants.is_release_known:
        return (
            f"neuralforecast {state.install.version} in {state.install.site_packages} is unknown: {status.reason}. "
            "Upgrade nfpatch, or let it patch the release where the code matches exactly, and prove that first: "
            "`--allow-modified --prove`."
        )
    return (
        f"{state.install.file(file)} is not the file of neuralforecast {state.install.version}: {status.reason}. "
        "Restore the released file, or let nfpatch patch it where the code matches exactly: `--allow-modified`."
    )


def _why_no_variant_fits(state: InstallState, status: PatchStatus) -> str:
    install, variant = state.install, state.variant_of(status.patch)
    commit = commit_of(install)
    if commit is not None:
        return (
            f"{status.patch.id} does not fit {install.package}, which is commit {commit.short_id} of "
            f"{commit.repository}: {variant.reason}. Leave the patch out: `--skip {status.patch.id}`."
        )
    if status.state == "unknown-release":
        return (
            f"neuralforecast {install.version} in {install.site_packages} is unknown, and {status.patch.id} does not "
            f"fit it: {variant.reason}. Upgrade nfpatch, or leave the patch out: `--skip {status.patch.id}`."
        )
    return (
        f"{status.patch.id} does not fit {install.package}, which differs from the release: {variant.reason}. Restore "
        f"the released file, or leave the patch out: `--skip {status.patch.id}`."
    )
