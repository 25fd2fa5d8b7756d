"""Edits: the changes that a patch makes to the bytes of a file.

A set of patches is the union of their edits, in any order, and one fingerprint per patch and file is enough. This works
because the edits of two patches never overlap and never insert at the same position, except for the imports of runtime
modules, which patches share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nfpatch.codemod import CodemodRefused
from nfpatch.fingerprints import digest_with_positions


@dataclass(frozen=True, order=True)
class Edit:
    """A change of a file: `new` replaces the bytes from `start` to `stop`.

    The lines of an edit that `is_import` are inserted once even if several patches insert them, sorted alphabetically.
    """

    start: int
    stop: int
    new: bytes
    is_import: bool = False

    @property
    def is_insertion(self) -> bool:
        """Whether it removes no bytes of the original."""
        return self.start == self.stop


def merge_adjacent(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits of one patch, sorted, with adjacent ones merged. Raises CodemodRefused if two overlap."""
    result: list[Edit] = []
    for edit in sorted(edits):
        last = result[-1] if result else None
        if last is not None and edit.start < last.stop:
            raise CodemodRefused("two of its changes concern the same statements")
        if last is not None and edit.start == last.stop and not (edit.is_import or last.is_import):
            result[-1] = Edit(last.start, edit.stop, last.new + edit.new)
        else:
            result.append(edit)
    return tuple(result)


def apply_edits(original: bytes, edits: Mapping[str, Sequence[Edit]]) -> bytes:
    """The original with the edits of these patches, by patch id.

    Raises CodemodRefused if edits of two patches overlap or insert at the same position.
    """
    parts, at, last_edit, last_patch = [], 0, None, ""
    for edit, patch_id in sorted([*_imports_of(edits), *_other_edits_of(edits)]):
        is_same_position = last_edit is not None and last_edit.is_insertion and edit.is_insertion and at == edit.start
        if last_edit is not None and (edit.start < at or (is_same_position and patch_id != last_patch)):
            raise CodemodRefused(f"{patch_id} and {last_patch} change the same lines")
        parts += [original[at : edit.start], edit.new]
        at, last_edit, last_patch = edit.stop, edit, patch_id
    return b"".join([*parts, original[at:]])


def _imports_of(edits: Mapping[str, Sequence[Edit]]) -> list[tuple[Edit, str]]:
    """The imports of all patches as one insertion at each position, attributed to the first patch that makes it."""
    lines: dict[int, set[bytes]] = {}
    first: dict[int, str] = {}
    for patch_id, own in sorted(edits.items()):
        for edit in own:
            if edit.is_import:
                lines.setdefault(edit.start, set()).update(edit.new.splitlines(keepends=True))
                first.setdefault(edit.start, patch_id)
    return [(Edit(at, at, b"".join(sorted(some)), is_import=True), first[at]) for at, some in lines.items()]


def _other_edits_of(edits: Mapping[str, Sequence[Edit]]) -> list[tuple[Edit, str]]:
    return [(edit, patch_id) for patch_id, own in edits.items() for edit in own if not edit.is_import]


def digest_edits(edits: Sequence[Edit]) -> str:
    """SHA-256 (hex) of the edits, with their positions: the fingerprint of a patch in a file.

    The positions of imports of runtime modules are not part of it, as they follow from the file.
    """
    positions = [(edit.start, edit.stop) for edit in edits if not edit.is_import]
    return digest_with_positions(digest_inserted_text(edits), positions)


def digest_inserted_text(edits: Sequence[Edit]) -> str:
    """SHA-256 (hex) of what the edits insert, without the positions."""
    digest = hashlib.sha256()
    for edit in edits:
        digest.update(f"{len(edit.new)}:".encode())
        digest.update(edit.new)
    return digest.hexdigest()
