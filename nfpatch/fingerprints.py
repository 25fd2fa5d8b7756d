"""The fingerprints of the releases: of every file that a patch rewrites, and of the edits of each patch.

Their number grows with the patches, not with the sets of patches: for a patch in a file there is one hash of its edits,
and the position and digest of each edit, which detect the patch in a file. `scripts/fingerprints.py` generates them
from the released wheels. A file that several releases share is listed once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, TypeVar

V = TypeVar("V")

_IMPORT = re.compile(rb"from neuralforecast\._nfpatch import (\w+)[\r\n]+")
# The numbers of hexadecimal digits of short digests. They only detect patches; what nfpatch writes is verified by
# whole hashes.
DIGEST_LENGTH = 12
EDIT_DIGEST_LENGTH = 8


class RecordedEdit(NamedTuple):
    """An edit of a patch: the bytes of the original that it replaces, the size of the new ones, and digests of both."""

    start: int
    stop: int
    size: int
    old: str
    new: str


class RecordedPatch(NamedTuple):
    """A patch in a file: SHA-256 (hex) of what its edits insert, and each edit.

    `imports` are the runtime modules that it imports there.
    """

    text_sha256: str
    imports: tuple[str, ...]
    edits: tuple[RecordedEdit, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of its edits with their positions, as computed by `edits.digest_edits`."""
        return digest_with_positions(self.text_sha256, [(edit.start, edit.stop) for edit in self.edits])


class RecordedFile(NamedTuple):
    """A file of some releases: its SHA-256 (hex), the digest of the parts that no patch changes, and the patches.

    `imports_at` is the byte offset of the imports of runtime modules; 0 if there are none.
    """

    releases: tuple[str, ...]
    sha256: str
    unpatched_digest: str
    imports_at: int
    patches: Mapping[str, RecordedPatch]

    def detect_patches(self, content: bytes) -> Optional[frozenset[str]]:
        """The patches that this content has, the empty set for the released file; None for unknown content."""
        if hashlib.sha256(content).hexdigest() == self.sha256:
            return frozenset()
        content, imported = self._without_imports(content)
        unpatched_digest, at, place = hashlib.sha256(), 0, 0
        is_there: dict[str, set[bool]] = {}
        for edit, patch_id in sorted((edit, name) for name, patch in self.patches.items() for edit in patch.edits):
            kept = place + edit.start - at
            unpatched_digest.update(content[place:kept])
            # the longer one first, because an empty text matches anywhere
            sides = sorted([(edit.size, edit.new, True), (edit.stop - edit.start, edit.old, False)], reverse=True)
            found = next((side for side in sides if short_digest(content[kept : kept + side[0]]) == side[1]), None)
            if found is None:
                return None
            is_there.setdefault(patch_id, set()).add(found[2])
            place, at = kept + found[0], edit.stop
        unpatched_digest.update(content[place:])
        if unpatched_digest.hexdigest()[:DIGEST_LENGTH] != self.unpatched_digest or any(
            len(sides) > 1 for sides in is_there.values()
        ):
            return None
        carried = frozenset(patch_id for patch_id, sides in is_there.items() if True in sides)
        needed = {module for patch_id in carried for module in self.patches[patch_id].imports}
        return carried if imported == sorted(needed) else None

    def _without_imports(self, content: bytes) -> tuple[bytes, list[str]]:
        """The content without the lines in which patches import runtime modules, and the names of these modules."""
        modules, end = [], self.imports_at
        while (line := _IMPORT.match(content, end)) is not None:
            modules.append(line[1].decode())
            end = line.end()
        return content[: self.imports_at] + content[end:], modules


class _Record(NamedTuple):
    releases: tuple[str, ...]
    files: Mapping[str, tuple[RecordedFile, ...]]
    specifiers: Mapping[str, tuple[str, ...]]


class Fingerprints(_Record):
    """The fingerprints of all releases, by file, oldest release first.

    `specifiers` maps the version specifiers of the patches (PEP 440) to the releases that each contains, so that quick
    commands need not parse them.
    """

    def file(self, release: str, file: str) -> Optional[RecordedFile]:
        """The fingerprint of a file of a release; None if the release has no such file or is unknown."""
        return self._by_release.get(file, {}).get(release)

    def patch(self, release: str, file: str, patch_id: str) -> Optional[RecordedPatch]:
        """The fingerprint of a patch in a file of a release; None if it changes nothing there."""
        known = self.file(release, file)
        return None if known is None else known.patches.get(patch_id)

    def files_of(self, release: str, patch_id: str) -> tuple[str, ...]:
        """The files of a release that the patch changes, sorted."""
        known = {file: self.file(release, file) for file in sorted(self.files)}
        return tuple(file for file, found in known.items() if found is not None and patch_id in found.patches)

    @cached_property
    def _by_release(self) -> Mapping[str, Mapping[str, RecordedFile]]:
        """The fingerprints of each file, by release."""
        if isinstance(self.files, _DecodedFiles):
            return self.files.by_release
        return _OnDemand(self.files, lambda versions: {name: known for known in versions for name in known.releases})

    def knows(self, patch_id: str) -> bool:
        """Whether there are fingerprints of this patch."""
        return patch_id in self._patch_ids

    def is_named(self, specifier: str, release: str) -> Optional[bool]:
        """Whether the version specifier contains this release; None if either is unknown."""
        named = self.specifiers.get(specifier)
        return None if named is None or release not in self.releases else release in named

    @cached_property
    def _patch_ids(self) -> frozenset[str]:
        return frozenset(name for versions in self.files.values() for known in versions for name in known.patches)


def short_digest(content: bytes) -> str:
    """The short digest of the bytes of an edit."""
    return hashlib.sha256(content).hexdigest()[:EDIT_DIGEST_LENGTH]


def digest_with_positions(text_sha256: str, positions: Sequence[tuple[int, int]]) -> str:
    """SHA-256 (hex) of the digest of inserted texts and the positions that they replace in the original."""
    text = " ".join([text_sha256, *(f"{start}:{stop}" for start, stop in positions)])
    return hashlib.sha256(text.encode()).hexdigest()


def read_fingerprints(path: Path) -> Fingerprints:
    """The fingerprints in a file that `rendered` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    releases = tuple(document["releases"])
    texts = document["texts"]

    def recorded_patch(found: tuple[int, Sequence[int]]) -> RecordedPatch:
        number, starts = found
        _, imports, sha256, edits = texts[number]
        recorded = (
            RecordedEdit(start, start + length, size, old, new)
            for start, (length, size, old, new) in zip(starts, edits)
        )
        return RecordedPatch(_as_hex(sha256), tuple(imports.split()), tuple(recorded))

    def recorded_file(line: Sequence[Any]) -> RecordedFile:
        spans, sha256, unpatched_digest, imports_at, *patches = line
        by_id = {texts[number][0]: (number, starts) for number, *starts in patches}
        return RecordedFile(
            _listed(spans, releases), _as_hex(sha256), unpatched_digest, imports_at, _OnDemand(by_id, recorded_patch)
        )

    files = _DecodedFiles(document["files"], releases, recorded_file)
    specifiers = _OnDemand(document["specifiers"], lambda spans: _listed(spans, releases))
    return Fingerprints(releases, files, specifiers)


class _OnDemand(Mapping[str, V]):
    """A mapping whose values are computed on access, because a command needs few of several thousand."""

    def __init__(self, raw: Mapping[str, Any], make: Callable[[Any], V]) -> None:
        self._raw, self._make = raw, make
        self._made: dict[str, V] = {}

    def __getitem__(self, key: str) -> V:
        if key not in self._made:
            self._made[key] = self._make(self._raw[key])
        return self._made[key]

    def __contains__(self, key: object) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class _DecodedFiles(_OnDemand["tuple[RecordedFile, ...]"]):
    """The fingerprints of all releases by file, decoded on access.

    `by_release` has them by file and release: a command needs those of one release, and decodes no others.
    """

    def __init__(
        self,
        raw: Mapping[str, Sequence[Sequence[Any]]],
        releases: tuple[str, ...],
        decode: Callable[[Sequence[Any]], RecordedFile],
    ) -> None:
        def decoded_by_release(lines: Sequence[Sequence[Any]]) -> Mapping[str, RecordedFile]:
            return _OnDemand({name: line for line in lines for name in _listed(line[0], releases)}, decode)

        super().__init__(raw, lambda lines: tuple(map(decode, lines)))
        self.by_release: Mapping[str, Mapping[str, RecordedFile]] = _OnDemand(raw, decoded_by_release)


def rendered(fingerprints: Fingerprints) -> str:
    """The fingerprints as JSON, with a line for each content of a file, in the order of the fields of RecordedFile.

    Patches often insert the same text at different positions of many files. So `texts` has each text once, and a file
    refers to it by its number, with the offsets of the edits.
    """
    numbers: dict[str, int] = {}
    files = []
    for file, versions in sorted(fingerprints.files.items()):
        lines = []
        for known in versions:
            patches = [
                [numbers.setdefault(_text_line(patch_id, patch), len(numbers)), *(edit.start for edit in patch.edits)]
                for patch_id, patch in known.patches.items()
            ]
            spans = spans_of(known.releases, fingerprints.releases)
            lines.append(_line([spans, _as_base64(known.sha256), known.unpatched_digest, known.imports_at, *patches]))
        files.append(f"  {json.dumps(file)}: [\n   " + ",\n   ".join(lines) + "\n  ]")
    named = {
        specifier: spans_of(releases, fingerprints.releases)
        for specifier, releases in sorted(fingerprints.specifiers.items())
    }
    return (
        f'{{\n "releases": {json.dumps(fingerprints.releases)},\n'
        f' "specifiers": {_line(named)},\n'
        ' "texts": [\n  ' + ",\n  ".join(numbers) + "\n ],\n"
        ' "files": {\n' + ",\n".join(files) + "\n }\n}\n"
    )


def _text_line(patch_id: str, patch: RecordedPatch) -> str:
    edits = [(edit.stop - edit.start, edit.size, edit.old, edit.new) for edit in patch.edits]
    return _line([patch_id, " ".join(patch.imports), _as_base64(patch.text_sha256), edits])


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _as_base64(sha256: str) -> str:
    """A hash in base64, as in `RECORD`, which is a third shorter."""
    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode("ascii")


def _as_hex(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=").hex()


def spans_of(some: Sequence[str], releases: Sequence[str]) -> list[list[str]]:
    """The first and the last release of each run of consecutive releases."""
    spans: list[list[str]] = []
    for before, release in zip(("", *releases), releases):
        if release in some:
            if spans and spans[-1][1] == before:
                spans[-1][1] = release
            else:
                spans.append([release, release])
    return spans


def _listed(spans: Sequence[Sequence[str]], releases: tuple[str, ...]) -> tuple[str, ...]:
    """The inverse of `spans_of`."""
    if len(spans) == 1:
        first, last = spans[0]
        return releases[releases.index(first) : releases.index(last) + 1]
    return tuple(release for span in spans for release in _listed([span], releases))
