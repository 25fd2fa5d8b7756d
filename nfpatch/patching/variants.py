"""Finds the variant of a patch that fits an install.

For a released source, which the fingerprints recognise, the version decides. For any other source the code decides,
because it changes between two releases, and an install from git has the version of the previous release. There every
variant is tried, and fits if all its files are exactly what it expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, Optional, Union

from nfpatch.catalog import ALREADY_FIXED, Catalog, Patch
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.errors import RefusedError
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import Install
from nfpatch.installs.ledger import Ledger, hash_of, read_original
from nfpatch.installs.origin import commit_of

if TYPE_CHECKING:
    from nfpatch.patching.edits import Edit
    from nfpatch.patching.source import SourceFile

# The `model` of a patch that concerns all models
ANY_MODEL = "any"


class Variant(NamedTuple):
    """The variant of a patch for an install.

    `kind` is "release" if the release decides, "matched" if the code matches, "fixed" if the code shows that the patch
    is not needed, and "none" if no variant fits. `rewrites` are its codemods by file; if none fits, those of the
    release, if there are any. `releases` names the releases that a matched variant is for. `reason` says why there is
    nothing to rewrite, or why no variant fits.
    """

    kind: Literal["release", "matched", "fixed", "none"]
    rewrites: Mapping[str, Rewrite] = MappingProxyType({})
    releases: str = ""
    reason: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it rewrites, sorted."""
        return tuple(sorted(self.rewrites))


# The edits of a variant by file, not merged
_Edits = Mapping[str, frozenset[tuple["Edit", bytes]]]


class Variants:
    """The variants of all patches for one install, each computed once.

    `contents` has the current content by file. The variants are matched with the originals; of a patched file, that is
    the kept original.
    """

    def __init__(
        self, install: Install, catalog: Catalog, ledger: Ledger, contents: Mapping[str, Optional[bytes]]
    ) -> None:
        self.install, self.catalog, self.ledger, self.contents = install, catalog, ledger, contents
        self._variants: dict[str, Variant] = {}
        self._released: dict[str, bool] = {}
        self._carried: dict[str, Optional[frozenset[str]]] = {}
        self._originals: dict[str, Optional[bytes]] = {}
        self._sources: dict[str, SourceFile] = {}
        self._edits: dict[tuple[str, int], Union[tuple[Edit, ...], CodemodRefused]] = {}

    def after(self, ledger: Ledger, contents: Mapping[str, Optional[bytes]]) -> Variants:
        """The variants after the install has this ledger and these contents, with the same originals."""
        later = Variants(self.install, self.catalog, ledger, contents)
        later._variants, later._released, later._originals = self._variants, self._released, self._originals
        later._sources, later._edits = self._sources, self._edits
        return later

    @cached_property
    def is_release_known(self) -> bool:
        """Whether there are fingerprints of the version of the install."""
        return self.install.version in self.catalog.releases

    @cached_property
    def _next_release(self) -> Optional[str]:
        """The first known release after the version of the install; None if it is newer than all."""
        from packaging.version import Version

        version = Version(self.install.version)
        return next((release for release in self.catalog.releases if Version(release) > version), None)

    def of(self, patch: Patch) -> Variant:
        """The variant of this patch."""
        if patch.id not in self._variants:
            self._variants[patch.id] = self._variant_of(patch)
        return self._variants[patch.id]

    def original(self, file: str) -> Optional[bytes]:
        """The file without patches; None if it is missing."""
        if file not in self._originals:
            entry = self.ledger.files.get(file)
            try:
                if entry is not None:
                    self._originals[file] = read_original(self.install, file, entry.original_sha256)
                elif file in self.contents:
                    self._originals[file] = self.contents[file]
                else:  # a file that patches only inspect
                    self._originals[file] = read_file(self.install.file(file))
            except (RefusedError, FileNotFoundError):
                self._originals[file] = None
        return self._originals[file]

    def detect_patches(self, file: str) -> Optional[frozenset[str]]:
        """The patches that the current content of the file has, by its fingerprint; None for unknown content.

        Upstream's fix may have the same bytes as the patch. Then the source of a commit or of another release does not
        count as patched.
        """
        if file not in self._carried:
            content, known = self.contents[file], self.catalog.fingerprints.file(self.install.version, file)
            carried = None if content is None or known is None else known.detect_patches(content)
            if carried and content is not None and known is not None and file not in self.ledger.files:
                is_plain = not any(known.patches[patch_id].imports for patch_id in carried)
                if is_plain and (self._is_of_a_release(file, content) or commit_of(self.install) is not None):
                    carried = None
            self._carried[file] = carried
        return self._carried[file]

    def _is_of_a_release(self, file: str, content: bytes) -> bool:
        return any(known.sha256 == hash_of(content) for known in self.catalog.fingerprints.files[file])

    def is_released(self, file: str) -> bool:
        """Whether the original of this file is that of the release, or missing there, too.

        For a file without fingerprints, which only a user's own patch rewrites, the version decides.
        """
        if file not in self._released:
            fingerprints, content = self.catalog.fingerprints, self.contents.get(file)
            known, entry = fingerprints.file(self.install.version, file), self.ledger.files.get(file)
            if file not in fingerprints.files:
                self._released[file] = self.is_release_known
            elif entry is not None:
                self._released[file] = known is not None and known.sha256 == entry.original_sha256
            elif known is None or content is None:
                self._released[file] = self.is_release_known and known is None and content is None
            else:
                self._released[file] = self.detect_patches(file) is not None
        return self._released[file]

    def _variant_of(self, patch: Patch) -> Variant:
        catalog, version = self.catalog, self.install.version
        own = catalog.rewrites_for(patch, version)
        reason = catalog.reason_unaffected(patch, version) or f"no variant of the patch names {version}"
        if self.is_release_known and all(map(self.is_released, own or patch.files)):
            return Variant("release", own, reason="" if own else reason)
        for why, rewrites in patch.unaffected_code.items():
            if not any(self._problems(rewrites)):
                return Variant("fixed", reason=why)
        return self._matched(patch, own) or self._unmatched(patch, own, reason)

    def _matched(self, patch: Patch, own: Mapping[str, Rewrite]) -> Optional[Variant]:
        """The variant of the release if it fits; else, of those that fit, the one whose edits contain the others."""
        fitting: dict[str, _Edits] = {}
        for specifier, rewrites in sorted(patch.variants.items(), key=lambda each: each[1] is not own):
            try:
                fitting[specifier] = {file: _parts_of(self.edits(file, each)) for file, each in rewrites.items()}
            except CodemodRefused:
                continue
            if rewrites is own:
                break
        for specifier, edits in fitting.items():
            others = [fitting[other] for other in fitting if other != specifier]
            if patch.variants[specifier] is own or all(_contains(edits, other) for other in others):
                releases = self.catalog.releases_of(patch, specifier)
                return Variant("matched", patch.variants[specifier], releases)
        if fitting:
            releases = ", ".join(self.catalog.releases_of(patch, each) for each in fitting)
            return Variant("none", own, reason=f"the variants for {releases} all fit, but differ")
        return None

    def _unmatched(self, patch: Patch, own: Mapping[str, Rewrite], reason: str) -> Variant:
        if any(map(self._is_written, patch.variants.values())):
            return Variant("fixed", reason=ALREADY_FIXED)
        if not own and patch.model != ANY_MODEL and all(self.original(file) is None for file in patch.files):
            return Variant("release", reason=f"this source has no {patch.model}")
        if not own and (self.is_release_known or self._is_unaffected_in_next_release(patch)):
            return Variant("release", reason=reason)
        tried = [own] if own else [*patch.variants.values()][-1:]
        problems = (str(error) for rewrites in tried for error in self._problems(rewrites))
        return Variant("none", own, reason=next(problems, ""))

    def _is_unaffected_in_next_release(self, patch: Patch) -> bool:
        """Whether the next release after this source does not need the patch either."""
        return self._next_release is not None and not self.catalog.rewrites_for(patch, self._next_release)

    def _problems(self, rewrites: Mapping[str, Rewrite]) -> Iterator[CodemodRefused]:
        """The reasons why these codemods do not fit their files."""
        for file, rewrite in rewrites.items():
            try:
                self.edits(file, rewrite)
            except CodemodRefused as error:
                yield CodemodRefused(f"{error} (in {file})")

    def _is_written(self, rewrites: Mapping[str, Rewrite]) -> bool:
        """Whether the source already contains what these codemods write."""
        from nfpatch.patching.rewriting import check_stands

        try:
            for file, rewrite in rewrites.items():
                check_stands(rewrite, self._source(file))
        except CodemodRefused:
            return False
        return True

    def edits(self, file: str, rewrite: Rewrite) -> tuple[Edit, ...]:
        """The edits of a codemod in the original of a file, not merged. Raises CodemodRefused."""
        key = (file, id(rewrite))
        if key not in self._edits:
            from nfpatch.patching.rewriting import separate_edits_of

            try:
                self._edits[key] = separate_edits_of(rewrite, self._source(file))
            except CodemodRefused as error:
                self._edits[key] = error
        found = self._edits[key]
        if isinstance(found, CodemodRefused):
            raise found
        return found

    def _source(self, file: str) -> SourceFile:
        from nfpatch.patching.source import SourceFile

        content = self.original(file)
        if content is None:
            raise CodemodRefused("the file is missing")
        if file not in self._sources:
            self._sources[file] = SourceFile(content)
        return self._sources[file]


def _parts_of(edits: Sequence[Edit]) -> frozenset[tuple[Edit, bytes]]:
    """These edits, split by line if they import runtime modules."""
    from dataclasses import replace

    lines = ((edit, edit.new.splitlines() if edit.is_import else [edit.new]) for edit in edits)
    return frozenset((replace(edit, new=b""), line) for edit, own in lines for line in own)


def _contains(edits: _Edits, others: _Edits) -> bool:
    """Whether all of the other edits are among these."""
    return all(own <= edits.get(file, frozenset()) for file, own in others.items())
