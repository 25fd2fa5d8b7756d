"""The state of an install: which patches it needs and has, and why. Changes nothing."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.errors import RefusedError
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import RUNTIME_FOLDER, Install, module_file
from nfpatch.installs.ledger import AppliedPatch, Ledger, PatchedFile, hash_of, read_ledger
from nfpatch.installs.transaction import is_interrupted
from nfpatch.patching.variants import Variant, Variants

PatchState = Literal[
    "applied", "applicable", "not-needed", "opt-in", "modified", "outdated", "unknown-release", "interrupted"
]

# From best to worst: the state of a patch is the worst state of its files and runtime modules.
_FILE_STATES: tuple[PatchState, ...] = ("applied", "outdated", "applicable", "modified")
_OUTDATED = "applied by another version of nfpatch, which wrote other bytes; `nfpatch apply` renews it"


class PatchStatus(NamedTuple):
    """The state of one patch in one install, with the reason as text.

    `files` has the state of each file of neuralforecast that it rewrites here; empty if it is not known to be needed.
    `variant_of` names the releases whose variant fits a source that differs from a release.
    """

    patch: Patch
    state: PatchState
    reason: str
    files: Mapping[str, PatchState] = MappingProxyType({})
    variant_of: str = ""

    def to_json(self) -> dict[str, object]:
        """An element of `patches` in the JSON documents. If it rewrites nothing here, `files` are all that it names."""
        return {
            "id": self.patch.id,
            "group": self.patch.group,
            "state": self.state,
            "files": list(self.files) or list(self.patch.files),
            "reason": self.reason,
            "requires": list(self.patch.requires),
            "variant_of": self.variant_of or None,
        }


class _Facts(NamedTuple):
    install: Install
    catalog: Catalog
    ledger: Ledger
    contents: Mapping[str, Optional[bytes]]
    variants: Variants
    interrupted: bool
    ledger_problem: Optional[str] = None
    obstacles: Mapping[str, str] = MappingProxyType({})
    expected: Mapping[str, Mapping[str, Optional[AppliedPatch]]] = MappingProxyType({})


class InstallState(_Facts):
    """An install at the time of `inspect_install`.

    `contents` has the content, by path, of every file that a patch rewrites and of every runtime module; None for a
    missing file. `obstacles` describes, by the path of a runtime module, what exists in its place that nfpatch cannot
    have written. `ledger_problem` says why the ledger cannot be used, if that is so; `ledger` is an empty one then.
    `expected` is what the current catalog would write for the applied patches, by file and id: None if it changes
    nothing in this file, or does not fit any more; patches for which this is unknown are left out. `variants` has the
    variant of each patch that fits.
    """

    def status_of(self, patch: Patch) -> PatchStatus:
        """The state of this patch here."""
        if patch.id not in self._states:
            self._states[patch.id] = _status_of(self, patch)
        return self._states[patch.id]

    @cached_property
    def _states(self) -> dict[str, PatchStatus]:
        """The states that were computed so far, by patch id."""
        return {}

    def detect_patches(self, file: str) -> Optional[frozenset[str]]:
        """The patches that the current content of the file has, by its fingerprint; None for unknown content."""
        return self.variants.detect_patches(file)

    def variant_of(self, patch: Patch) -> Variant:
        """The variant of this patch that fits here."""
        return self.variants.of(patch)

    def modules_for(self, patch: Patch) -> tuple[str, ...]:
        """The names of the runtime modules that this patch needs here, sorted."""
        rewrites = self.variant_of(patch).rewrites.values()
        return tuple(sorted({name for rewrite in rewrites for name in self.catalog.modules_of(rewrite)}))

    def needed_modules(self, patch: Patch) -> tuple[str, ...]:
        """The runtime modules, by path, that the catalog adds for this patch."""
        return tuple(map(module_file, self.modules_for(patch)))

    def differences(self, patch: Patch) -> tuple[str, ...]:
        """The paths of files and runtime modules that the current catalog would write differently for this patch.

        Empty if the patch is up to date, or not in the ledger.
        """
        applied = self.ledger.files_of(patch.id)
        if not applied:
            return ()
        differing = self.variant_of(patch).rewrites.keys() - applied.keys()
        for file, standing in applied.items():
            current = self.expected.get(file, {}).get(patch.id, standing)
            if current is None or current.edits_sha256 != standing.edits_sha256:
                differing.add(file)
            else:
                differing.update(map(module_file, {*current.modules} ^ {*standing.modules}))
        hashes = self.catalog.module_hashes
        for name in {name for standing in applied.values() for name in standing.modules} & hashes.keys():
            if self.ledger.added[module_file(name)] != hashes[name]:
                differing.add(module_file(name))
        return tuple(sorted(differing))

    @cached_property
    def outdated(self) -> tuple[Patch, ...]:
        """The applied patches that the current catalog would write differently, in catalog order."""
        return tuple(patch for patch in self.catalog.patches if self.differences(patch))

    @property
    def statuses(self) -> tuple[PatchStatus, ...]:
        """The state of every patch, in catalog order."""
        return tuple(self.status_of(patch) for patch in self.catalog.patches)


def inspect_install(install: Install, catalog: Catalog) -> InstallState:
    """Inspect an install. Raises RefusedError or InstallEnvironmentError if a file cannot be inspected."""
    interrupted, problem, ledger = is_interrupted(install), None, Ledger(install.version)
    try:
        if not interrupted:
            ledger = read_ledger(install)
    except RefusedError as error:
        problem = str(error)
    contents = {file: _content_of(install.file(file)) for file in sorted({*catalog.files, *ledger.files})}
    modules, obstacles = _modules_in(install, {*map(module_file, catalog.modules), *ledger.added})
    contents.update(modules)
    variants = Variants(install, catalog, ledger, contents)
    expected = {file: _expected_patches(variants, file, entry) for file, entry in ledger.files.items()}
    return InstallState(install, catalog, ledger, contents, variants, interrupted, problem, obstacles, expected)


def _content_of(path: Path) -> Optional[bytes]:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def _modules_in(install: Install, files: set[str]) -> tuple[dict[str, Optional[bytes]], dict[str, str]]:
    """The content of each of these runtime modules (None if it is missing), and the obstacles in their places."""
    contents: dict[str, Optional[bytes]] = dict.fromkeys(sorted(files))
    obstacles: dict[str, str] = {}
    folder = install.file(RUNTIME_FOLDER)
    mode = _mode_of(folder)
    if mode is not None and not stat.S_ISDIR(mode):
        return contents, dict.fromkeys(contents, f"{folder} is {_kind_in_words(mode)}")
    for file in contents if mode is not None else ():
        path = install.file(file)
        mode = _mode_of(path)
        if mode is None:
            continue
        if not stat.S_ISREG(mode):
            obstacles[file] = f"{path} is {_kind_in_words(mode)}"
            continue
        try:
            contents[file] = _content_of(path)
        except RefusedError as error:
            obstacles[file] = str(error).partition(". ")[0]
    return contents, obstacles


def _mode_of(path: Path) -> Optional[int]:
    """The mode of a path, without following links; None if it does not exist."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kind_in_words(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "neither a file nor a folder")


def _expected_patches(variants: Variants, file: str, entry: PatchedFile) -> dict[str, Optional[AppliedPatch]]:
    """What the current catalog would write for the patches in this file, by id: None if it changes nothing here.

    For a released file, the fingerprints have it. For any other file, the codemods are run on the kept originals.
    Patches that are not in the catalog, or whose originals are missing, are left out.
    """
    catalog, ledger = variants.catalog, variants.ledger
    known = catalog.fingerprints.file(variants.install.version, file)
    expected: dict[str, Optional[AppliedPatch]] = {}
    for patch in (patch for patch in catalog.patches if patch.id in entry.patches):
        variant = variants.of(patch)
        rewrite, is_released = variant.rewrites.get(file), variant.kind == "release"
        if is_released and rewrite is None:
            expected[patch.id] = None
        elif is_released and rewrite is not None and known is not None and patch.id in known.patches:
            expected[patch.id] = AppliedPatch(known.patches[patch.id].sha256, catalog.modules_of(rewrite))
        elif all(variants.original(other) is not None for other in ledger.files_of(patch.id)):
            expected[patch.id] = None if rewrite is None else _applied_by(variants, file, rewrite)
    return expected


def _applied_by(variants: Variants, file: str, rewrite: Rewrite) -> Optional[AppliedPatch]:
    """The entry that a codemod would get in the ledger for the original of a file; None if it does not fit."""
    from nfpatch.patching.edits import digest_edits, merge_adjacent

    try:
        edits = merge_adjacent(variants.edits(file, rewrite))
    except CodemodRefused:
        return None
    return AppliedPatch(digest_edits(edits), variants.catalog.modules_of(rewrite))


def _status_of(state: InstallState, patch: Patch) -> PatchStatus:
    if state.interrupted:
        return PatchStatus(
            patch, "interrupted", "an interrupted run left its work unfinished; the next apply or revert completes it"
        )
    patched = {file for file, entry in state.ledger.files.items() if patch.id in entry.patches}
    variant = state.variant_of(patch)
    files = sorted({*variant.rewrites, *patched})
    if not patched and variant.kind == "none":
        return _status_without_variant(state, patch, variant)
    if not files:
        return PatchStatus(patch, "not-needed", variant.reason)
    states = {file: _state_in(state, patch, file) for file in files}
    is_elsewhere = not patched and all(each == "applied" for each, _ in states.values())
    modules = sorted({*state.needed_modules(patch), *state.ledger.added_by(patch.id)})
    states.update({file: _state_of_module(state, patch, file, is_elsewhere) for file in modules})
    for file in state.differences(patch):
        # files that were changed or restored by hand keep their state
        if states[file][0] == "applied" or (states[file][0] == "applicable" and file not in patched):
            states[file] = ("outdated", _OUTDATED)
    worst = max(states, key=lambda file: _FILE_STATES.index(states[file][0]))
    patch_state, reason = states[worst]
    if any(states[file][0] != patch_state for file in files):
        reason = f"{reason} (in {', '.join(file for file in states if states[file][0] == patch_state)})"
    if patch.opt_in and not patched and patch_state == "applicable":
        patch_state, reason = "opt-in", f"{reason} (applied only by its own id)"
    if variant.kind == "matched" and patch_state == "applied":
        reason = f"{reason} (with its variant for {variant.releases})"
    return PatchStatus(patch, patch_state, reason, {file: states[file][0] for file in files}, variant.releases)


def _status_without_variant(state: InstallState, patch: Patch, variant: Variant) -> PatchStatus:
    """The state of a patch that has no fitting variant, in a source that is not known to be fixed."""
    reason = f"no variant fits: {variant.reason}"
    if state.variants.is_release_known:
        return PatchStatus(patch, "modified", reason, dict.fromkeys(variant.files, "modified"))
    newest = state.catalog.releases[-1]
    return PatchStatus(patch, "unknown-release", f"this nfpatch only knows the releases up to {newest}; {reason}")


def _state_of_module(state: InstallState, patch: Patch, file: str, is_elsewhere: bool) -> tuple[PatchState, str]:
    """The state of a patch in a runtime module. If `is_elsewhere`, its files are patched, but not in the ledger."""
    content, standing = state.contents[file], state.ledger.added.get(file)
    if file in state.obstacles:
        return "modified", f"{state.obstacles[file]}, which nfpatch did not create"
    if standing is not None:
        if content is None:
            return "modified", "the file is missing"
        if hash_of(content) != standing:
            return "modified", "the file was changed after nfpatch wrote it"
        return ("applied" if file in state.ledger.added_by(patch.id) else "applicable"), patch.summary
    if is_elsewhere:
        if content == state.catalog.modules[Path(file).stem]:
            return "applied", patch.summary
        return "modified", f"the file {'is missing' if content is None else 'is not the one that the patch needs'}"
    if content is not None:
        return "modified", "there is a file that nfpatch did not write"
    return "applicable", patch.summary


def _state_in(state: InstallState, patch: Patch, file: str) -> tuple[PatchState, str]:
    """The state of a patch in one of its files."""
    entry, content = state.ledger.files.get(file), state.contents[file]
    if entry is not None and patch.id in entry.patches:
        return _state_with_entry(patch, entry, content)
    if content is None:
        return "modified", "the file is missing"
    variant = state.variant_of(patch)
    if variant.kind == "matched":
        return "modified", f"the source differs from the release; the variant for {variant.releases} fits"
    if entry is None:
        return _state_by_fingerprint(state, patch, file)
    known = state.catalog.fingerprints.file(state.install.version, file)
    if known is None or entry.original_sha256 != known.sha256:
        return "modified", "the file already differed from the release when nfpatch patched it"
    patch_state, reason = _state_with_entry(patch, entry, content)
    return ("applicable" if patch_state == "applied" else patch_state), reason


def _state_with_entry(patch: Patch, entry: PatchedFile, content: Optional[bytes]) -> tuple[PatchState, str]:
    """The state of a patch in a file for which it is in the ledger."""
    if content is None:
        return "modified", "the file is missing"
    sha256 = hash_of(content)
    if sha256 == entry.patched_sha256:
        return "applied", patch.summary
    if sha256 == entry.original_sha256:
        return "applicable", f"{patch.summary} (the patched file was replaced by the original)"
    return "modified", "the file was changed after nfpatch patched it"


def _state_by_fingerprint(state: InstallState, patch: Patch, file: str) -> tuple[PatchState, str]:
    """The state of a patch in a file that is not in the ledger."""
    carried = state.detect_patches(file)
    has_fingerprints = state.catalog.fingerprints.patch(state.install.version, file, patch.id) is not None
    if not has_fingerprints and not carried:
        return "modified", "there is no fingerprint of the result, so nfpatch cannot verify it"
    if carried is None:
        return "modified", "the file is neither the released one nor written by nfpatch"
    if patch.id in carried:
        return "applied", f"{patch.summary} (patched elsewhere: the original is missing)"
    if carried:
        return "modified", "the file has another patch whose original is missing"
    return "applicable", patch.summary
