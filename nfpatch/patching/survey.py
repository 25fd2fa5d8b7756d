"""What an install needs and has: the state of each patch, with the reason in words. Only looks."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Optional

from nfpatch.catalog import Catalog, Patch
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.errors import Refused
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import RUNTIME_FOLDER, Install, module_file
from nfpatch.installs.ledger import AppliedPatch, Ledger, PatchedFile, hash_of, read_ledger
from nfpatch.installs.transaction import is_interrupted
from nfpatch.patching.variants import Variant, Variants

State = Literal[
    "applied", "applicable", "not-needed", "opt-in", "modified", "outdated", "unknown-release", "interrupted"
]


# From the best to the worst: a patch is in the state of the worst of its files and runtime modules.
_FILE_STATES: tuple[State, ...] = ("applied", "outdated", "applicable", "modified")
_OUTDATED = "another version of nfpatch applied it and wrote other bytes; `nfpatch apply` renews it"


class PatchStatus(NamedTuple):
    """The state of one patch in one install, with the reason in words.

    `files` are those of neuralforecast's own that it rewrites here, with the state of each; empty where it is not
    known to be needed. `variant_of` names the releases whose variant fits a source that is not a released one.
    """

    patch: Patch
    state: State
    reason: str
    files: Mapping[str, State] = MappingProxyType({})
    variant_of: str = ""

    def to_json(self) -> dict[str, object]:
        """An element of `patches` in the JSON documents. Where it rewrites nothing, its files in other releases."""
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
    current: Mapping[str, Mapping[str, Optional[AppliedPatch]]] = MappingProxyType({})


class Survey(_Facts):
    """An install as it was found.

    `contents` are the present bytes of every file that a patch rewrites, and of every runtime module, by path; None
    where there is no such file. `obstacles` tells, by the path of a runtime module, what stands there or in the way and
    is no file that nfpatch could have written. `ledger_problem` says why there is a ledger that cannot be trusted;
    `ledger` is an empty one then. `current` is what the catalog makes of the applied patches, by file and id: None
    where it changes nothing in this file, or its hooks no longer fit; a patch of which that is not known is left out.
    `variants` says which variant of each patch fits.
    """

    def status_of(self, patch: Patch) -> PatchStatus:
        """The state of this patch here."""
        if patch.id not in self._states:
            self._states[patch.id] = _status_of(self, patch)
        return self._states[patch.id]

    @cached_property
    def _states(self) -> dict[str, PatchStatus]:
        """The states that were asked for so far, by the id of the patch."""
        return {}

    def carried_by(self, file: str) -> Optional[frozenset[str]]:
        """The patches that the present bytes of the file are known to carry; None for unknown content."""
        return self.variants.carried_by(file)

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
        """The files and runtime modules, by path, that the catalog would write otherwise for this applied patch.

        Empty where it is up to date, or not applied by the ledger.
        """
        applied = self.ledger.files_of(patch.id)
        if not applied:
            return ()
        differing = self.variant_of(patch).rewrites.keys() - applied.keys()
        for file, standing in applied.items():
            current = self.current.get(file, {}).get(patch.id, standing)
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
        """The applied patches that the catalog would write otherwise, in catalog order."""
        return tuple(patch for patch in self.catalog.patches if self.differences(patch))

    @property
    def statuses(self) -> tuple[PatchStatus, ...]:
        """The state of every patch, in catalog order."""
        return tuple(self.status_of(patch) for patch in self.catalog.patches)


def survey(install: Install, catalog: Catalog) -> Survey:
    """Look at an install. Raises Refused or EnvironmentProblem where a file cannot be looked at."""
    interrupted, problem, ledger = is_interrupted(install), None, Ledger(install.version)
    try:
        if not interrupted:
            ledger = read_ledger(install)
    except Refused as error:
        problem = str(error)
    contents = {file: _content_of(install.file(file)) for file in sorted({*catalog.files, *ledger.files})}
    modules, obstacles = _modules_in(install, {*map(module_file, catalog.modules), *ledger.added})
    contents.update(modules)
    variants = Variants(install, catalog, ledger, contents)
    current = {file: _current_patches(variants, file, entry) for file, entry in ledger.files.items()}
    return Survey(install, catalog, ledger, contents, variants, interrupted, problem, obstacles, current)


def _content_of(path: Path) -> Optional[bytes]:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def _modules_in(install: Install, files: set[str]) -> tuple[dict[str, Optional[bytes]], dict[str, str]]:
    """The content of each of these runtime modules, None where there is none, and what stands in the way of some."""
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
        except Refused as error:
            obstacles[file] = str(error).partition(". ")[0]
    return contents, obstacles


def _mode_of(path: Path) -> Optional[int]:
    """The mode of what stands at a path, links not followed; None for nothing."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kind_in_words(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "neither a file nor a folder")


def _current_patches(variants: Variants, file: str, entry: PatchedFile) -> dict[str, Optional[AppliedPatch]]:
    """What the catalog makes of the patches that this file carries, by id: None where it changes nothing, or not here.

    The record knows it of the released file. Else the codemods of patches that the catalog has are run on the kept
    originals; where one is lost they are left out, as are patches that the catalog does not have.
    """
    catalog, ledger = variants.catalog, variants.ledger
    known = catalog.fingerprints.file(variants.install.version, file)
    current: dict[str, Optional[AppliedPatch]] = {}
    for patch in (patch for patch in catalog.patches if patch.id in entry.patches):
        variant = variants.of(patch)
        rewrite, is_released = variant.rewrites.get(file), variant.found == "release"
        if is_released and rewrite is None:
            current[patch.id] = None
        elif is_released and rewrite is not None and known is not None and patch.id in known.patches:
            current[patch.id] = AppliedPatch(known.patches[patch.id].sha256, catalog.modules_of(rewrite))
        elif all(variants.original(other) is not None for other in ledger.files_of(patch.id)):
            current[patch.id] = None if rewrite is None else _applied_by(variants, file, rewrite)
    return current


def _applied_by(variants: Variants, file: str, rewrite: Rewrite) -> Optional[AppliedPatch]:
    """What a codemod comes to in the original of a file; None where it does not fit."""
    from nfpatch.patching.edits import digest_of, joined

    try:
        edits = joined(variants.edits(file, rewrite))
    except CodemodRefused:
        return None
    return AppliedPatch(digest_of(edits), variants.catalog.modules_of(rewrite))


def _status_of(found: Survey, patch: Patch) -> PatchStatus:
    if found.interrupted:
        return PatchStatus(
            patch, "interrupted", "a killed run left work half done; the next apply or revert completes it"
        )
    patched = {file for file, entry in found.ledger.files.items() if patch.id in entry.patches}
    variant = found.variant_of(patch)
    files = sorted({*variant.rewrites, *patched})
    if not patched and variant.found == "none":
        return _status_without_variant(found, patch, variant)
    if not files:
        return PatchStatus(patch, "not-needed", variant.reason)
    states = {file: _state_in(found, patch, file) for file in files}
    is_elsewhere = not patched and all(state == "applied" for state, _ in states.values())
    modules = sorted({*found.needed_modules(patch), *found.ledger.added_by(patch.id)})
    states.update({file: _state_of_module(found, patch, file, is_elsewhere) for file in modules})
    for file in found.differences(patch):
        # what was changed, or put back, is still that
        if states[file][0] == "applied" or (states[file][0] == "applicable" and file not in patched):
            states[file] = ("outdated", _OUTDATED)
    worst = max(states, key=lambda file: _FILE_STATES.index(states[file][0]))
    state, reason = states[worst]
    if any(states[file][0] != state for file in files):
        reason = f"{reason} (in {', '.join(file for file in states if states[file][0] == state)})"
    if patch.opt_in and not patched and state == "applicable":
        state, reason = "opt-in", f"{reason} (applied by its own id only)"
    if variant.found == "matched" and state == "applied":
        reason = f"{reason} (by its variant for {variant.releases})"
    return PatchStatus(patch, state, reason, {file: states[file][0] for file in files}, variant.releases)


def _status_without_variant(found: Survey, patch: Patch, variant: Variant) -> PatchStatus:
    """The state of a patch of which no variant fits the source, which is not known to be fixed."""
    reason = f"no variant fits: {variant.reason}"
    if found.variants.is_release_known:
        return PatchStatus(patch, "modified", reason, dict.fromkeys(variant.files, "modified"))
    newest = found.catalog.releases[-1]
    return PatchStatus(patch, "unknown-release", f"this nfpatch knows the releases up to {newest}; {reason}")


def _state_of_module(found: Survey, patch: Patch, file: str, is_elsewhere: bool) -> tuple[State, str]:
    """The state of a patch in a runtime module; `is_elsewhere` tells that its files carry it, and no ledger says so."""
    content, standing = found.contents[file], found.ledger.added.get(file)
    if file in found.obstacles:
        return "modified", f"{found.obstacles[file]}, and nfpatch did not put it there"
    if standing is not None:
        if content is None:
            return "modified", "the file is missing"
        if hash_of(content) != standing:
            return "modified", "the file was changed after nfpatch wrote it"
        return ("applied" if file in found.ledger.added_by(patch.id) else "applicable"), patch.summary
    if is_elsewhere:
        if content == found.catalog.modules[Path(file).stem]:
            return "applied", patch.summary
        return "modified", f"the file {'is missing' if content is None else 'is not the one that the patch needs'}"
    if content is not None:
        return "modified", "a file stands there that nfpatch did not write"
    return "applicable", patch.summary


def _state_in(found: Survey, patch: Patch, file: str) -> tuple[State, str]:
    """The state of a patch in one of its files."""
    entry, content = found.ledger.files.get(file), found.contents[file]
    if entry is not None and patch.id in entry.patches:
        return _state_with_entry(patch, entry, content)
    if content is None:
        return "modified", "the file is missing"
    variant = found.variant_of(patch)
    if variant.found == "matched":
        return "modified", f"the source is not the released one; the variant for {variant.releases} fits"
    if entry is None:
        return _state_by_fingerprint(found, patch, file)
    known = found.catalog.fingerprints.file(found.install.version, file)
    if known is None or entry.original_sha256 != known.sha256:
        return "modified", "the file was not the released one when nfpatch patched it"
    state, reason = _state_with_entry(patch, entry, content)
    return ("applicable" if state == "applied" else state), reason


def _state_with_entry(patch: Patch, entry: PatchedFile, content: Optional[bytes]) -> tuple[State, str]:
    """The state of a patch that the ledger says the file carries."""
    if content is None:
        return "modified", "the file is missing"
    sha256 = hash_of(content)
    if sha256 == entry.patched_sha256:
        return "applied", patch.summary
    if sha256 == entry.original_sha256:
        return "applicable", f"{patch.summary} (the original came back over the patch)"
    return "modified", "the file was changed after nfpatch patched it"


def _state_by_fingerprint(found: Survey, patch: Patch, file: str) -> tuple[State, str]:
    """The state of a patch in a file that the ledger does not know."""
    carried = found.carried_by(file)
    is_on_record = found.catalog.fingerprints.patch(found.install.version, file, patch.id) is not None
    if not is_on_record and not carried:
        return "modified", "no fingerprint of its result is on record, so that nfpatch cannot tell whether it is right"
    if carried is None:
        return "modified", "the file is neither the released one nor one that nfpatch wrote"
    if patch.id in carried:
        return "applied", f"{patch.summary} (patched elsewhere: the original is not kept here)"
    if carried:
        return "modified", "the file carries another patch whose original is not kept here"
    return "applicable", patch.summary
