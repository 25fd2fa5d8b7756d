"""Edits: what a patch comes to in a file, as changes of the original's bytes.

The edits of two patches never touch, so a set of patches is just all of their edits, in any order, and what is on
record is one hash a patch and file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nfpatch.codemod import CodemodRefused


@dataclass(frozen=True, order=True)
class Edit:
    """One change of a file: the bytes from `start` up to `stop` go, and `new` comes in their place."""

    start: int
    stop: int
    new: bytes


def joined(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits of one patch in their order; those that touch are one. Raises CodemodRefused where two overlap."""
    result: list[Edit] = []
    for edit in sorted(edits):
        if result and edit.start < result[-1].stop:
            raise CodemodRefused("two of its changes are about the same statements")
        if result and edit.start == result[-1].stop:
            last = result.pop()
            edit = Edit(last.start, edit.stop, last.new + edit.new)
        result.append(edit)
    return tuple(result)


def spliced(original: bytes, edits: Mapping[str, Sequence[Edit]]) -> bytes:
    """The original with the edits of these patches, which are keyed by their ids.

    Raises CodemodRefused where edits of two patches overlap or touch, so that one may be about what the other makes.
    """
    parts, at, last = [], 0, ""
    for edit, patch_id in sorted((edit, patch_id) for patch_id, own in edits.items() for edit in own):
        if last and (edit.start < at or (edit.start == at and patch_id != last)):
            raise CodemodRefused(f"{patch_id} changes what {last} changes")
        parts += [original[at : edit.start], edit.new]
        at, last = edit.stop, patch_id
    return b"".join([*parts, original[at:]])


def digest_of(edits: Sequence[Edit]) -> str:
    """SHA-256 (hex) over the edits, places and bytes: what is on record of a patch in a file."""
    digest = hashlib.sha256()
    for edit in edits:
        digest.update(f"{edit.start}:{edit.stop}:{len(edit.new)}:".encode())
        digest.update(edit.new)
    return digest.hexdigest()
