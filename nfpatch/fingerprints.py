"""What is on record of the releases: every file that a patch touches, and what each patch makes of it.

The record grows with the patches, not with their sets: of a patch in a file it has one hash over its edits, and the
place and digest of each, by which a file is known to carry it. `scripts/fingerprints.py` makes the record from the
released wheels. A file that several releases share is in it once.
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
# Hexadecimal digits that identify a part of a file. They say what a file carries;
# what is written is held against whole hashes.
DIGEST_LENGTH = 12
EDIT_DIGEST_LENGTH = 8


class RecordedEdit(NamedTuple):
    """An edit of a patch: of which bytes of the original, how many it puts there, and digests of both."""

    start: int
    stop: int
    size: int
    old: str
    new: str


class RecordedPatch(NamedTuple):
    """A patch in a file: SHA-256 (hex) over what its edits insert, and what each is known by.

    `imports` are the runtime modules that it imports there.
    """

    text_sha256: str
    imports: tuple[str, ...]
    edits: tuple[RecordedEdit, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over its edits, places and bytes, as `edits.digest_of` makes it."""
        return digest_at_places(self.text_sha256, [(edit.start, edit.stop) for edit in self.edits])


class RecordedFile(NamedTuple):
    """A file of some releases: its SHA-256 (hex), the digest of all that no patch changes in it, and the patches.

    `imports_at` is where runtime modules are imported, in bytes; 0 where none is.
    """

    releases: tuple[str, ...]
    sha256: str
    rest: str
    imports_at: int
    patches: Mapping[str, RecordedPatch]

    def carried_by(self, content: bytes) -> Optional[frozenset[str]]:
        """The patches that this content carries, the empty set for the file as released; None for unknown content."""
        if hashlib.sha256(content).hexdigest() == self.sha256:
            return frozenset()
        content, imported = self._without_imports(content)
        rest, at, place = hashlib.sha256(), 0, 0
        is_there: dict[str, set[bool]] = {}
        for edit, patch_id in sorted((edit, name) for name, patch in self.patches.items() for edit in patch.edits):
            kept = place + edit.start - at
            rest.update(content[place:kept])
            # the longer first, because where nothing should be, nothing always is
            sides = sorted([(edit.size, edit.new, True), (edit.stop - edit.start, edit.old, False)], reverse=True)
            found = next((side for side in sides if digest_of(content[kept : kept + side[0]]) == side[1]), None)
            if found is None:
                return None
            is_there.setdefault(patch_id, set()).add(found[2])
            place, at = kept + found[0], edit.stop
        rest.update(content[place:])
        if rest.hexdigest()[:DIGEST_LENGTH] != self.rest or any(len(sides) > 1 for sides in is_there.values()):
            return None
        carried = frozenset(patch_id for patch_id, sides in is_there.items() if True in sides)
        needed = {module for patch_id in carried for module in self.patches[patch_id].imports}
        return carried if imported == sorted(needed) else None

    def _without_imports(self, content: bytes) -> tuple[bytes, list[str]]:
        """The content without the lines that import runtime modules where patches put them, and these modules."""
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
    """The record of all releases, oldest first, by file.

    `specifiers` are the version specifiers of the patches (PEP 440) with the releases that each names, so that no
    command has to parse one.
    """

    def file(self, release: str, file: str) -> Optional[RecordedFile]:
        """What is known of a file of a release; None where it does not have it, or the release is not known."""
        return next((known for known in self.files.get(file, ()) if release in known.releases), None)

    def patch(self, release: str, file: str, patch_id: str) -> Optional[RecordedPatch]:
        """What is known of a patch in a file of a release; None where it changes nothing there."""
        known = self.file(release, file)
        return None if known is None else known.patches.get(patch_id)

    def files_of(self, release: str, patch_id: str) -> tuple[str, ...]:
        """The files of a release that the patch changes, sorted."""
        known = {file: self.file(release, file) for file in sorted(self.files)}
        return tuple(file for file, found in known.items() if found is not None and patch_id in found.patches)

    def knows(self, patch_id: str) -> bool:
        """Whether the record speaks of this patch."""
        return patch_id in self._patch_ids

    def is_named(self, specifier: str, release: str) -> Optional[bool]:
        """Whether the version specifier names this release; None where either is not on record."""
        named = self.specifiers.get(specifier)
        return None if named is None or release not in self.releases else release in named

    @cached_property
    def _patch_ids(self) -> frozenset[str]:
        return frozenset(name for versions in self.files.values() for known in versions for name in known.patches)


def digest_of(content: bytes) -> str:
    """What the bytes of an edit are known by."""
    return hashlib.sha256(content).hexdigest()[:EDIT_DIGEST_LENGTH]


def digest_at_places(text_sha256: str, places: Sequence[tuple[int, int]]) -> str:
    """SHA-256 (hex) over a digest of inserted texts and the bytes of the original that they replace."""
    text = " ".join([text_sha256, *(f"{start}:{stop}" for start, stop in places)])
    return hashlib.sha256(text.encode()).hexdigest()


def read_fingerprints(path: Path) -> Fingerprints:
    """The record in a file that `rendered` wrote."""
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
        spans, sha256, rest, imports_at, *patches = line
        by_id = {texts[number][0]: (number, starts) for number, *starts in patches}
        return RecordedFile(
            _listed(spans, releases), _as_hex(sha256), rest, imports_at, _OnDemand(by_id, recorded_patch)
        )

    files = _OnDemand(document["files"], lambda lines: tuple(map(recorded_file, lines)))
    specifiers = _OnDemand(document["specifiers"], lambda spans: _listed(spans, releases))
    return Fingerprints(releases, files, specifiers)


class _OnDemand(Mapping[str, V]):
    """A mapping whose values are made of others when they are asked for: a command asks for few of some thousand."""

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


def rendered(fingerprints: Fingerprints) -> str:
    """The record as text: JSON with a line for each content of a file, in the order of the fields of RecordedFile.

    What a patch inserts is often the same in many files, only elsewhere. So `texts` has each such patch once, and a
    file the number of its line there with the starts of its edits.
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
            lines.append(_line([spans, _as_base64(known.sha256), known.rest, known.imports_at, *patches]))
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
    """A hash as `RECORD` has it, which is a third shorter."""
    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode("ascii")


def _as_hex(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=").hex()


def spans_of(some: Sequence[str], releases: Sequence[str]) -> list[list[str]]:
    """The first and the last of each run of releases that follow each other."""
    spans: list[list[str]] = []
    for before, release in zip(("", *releases), releases):
        if release in some:
            if spans and spans[-1][1] == before:
                spans[-1][1] = release
            else:
                spans.append([release, release])
    return spans


def _listed(spans: Sequence[Sequence[str]], releases: tuple[str, ...]) -> tuple[str, ...]:
    """The releases that `spans_of` was made of."""
    if len(spans) == 1:
        first, last = spans[0]
        return releases[releases.index(first) : releases.index(last) + 1]
    return tuple(release for span in spans for release in _listed([span], releases))
