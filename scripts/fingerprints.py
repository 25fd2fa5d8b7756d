"""Write `patches/fingerprints.json`: every file that a patch changes, in each release, and the edits of each patch.

With --check nothing is written, and the exit code is 1 if the file is not up to date.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from releases import RELEASES, download_all, read_member, unlisted_on_the_index

from nfpatch.catalog import FINGERPRINTS_FILE_NAME, Catalog, load_patches, patches_folder, specifier_contains
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.fingerprints import (
    DIGEST_LENGTH,
    Fingerprints,
    RecordedEdit,
    RecordedFile,
    RecordedPatch,
    rendered,
    short_digest,
)
from nfpatch.installs.ledger import hash_of
from nfpatch.patching import edits as editing
from nfpatch.patching.rewriting import check_parses, edits_of
from nfpatch.patching.source import SourceFile


def fingerprints_of(catalog: Catalog) -> Fingerprints:
    """The fingerprints of all releases: of every file that some patch changes, in each release that has it.

    A file that several releases share, with the same patches, is computed once.
    """
    files = {}
    for file in catalog.files:
        releases: dict[tuple[object, ...], list[str]] = {}
        versions: dict[tuple[object, ...], tuple[bytes, Mapping[str, Rewrite]]] = {}
        for release in RELEASES:
            source = read_member(release, file)
            variants = {patch.id: catalog.rewrites_for(patch, release).get(file) for patch in catalog.patches}
            rewrites = {patch_id: rewrite for patch_id, rewrite in variants.items() if rewrite is not None}
            if source is None and rewrites:
                raise CodemodRefused(f"{', '.join(rewrites)} names {file}, which {release} does not have")
            if source is not None:
                key = (source, *rewrites, *map(id, rewrites.values()))
                releases.setdefault(key, []).append(release)
                versions[key] = (source, rewrites)
        files[file] = tuple(_record_of(tuple(releases[key]), *versions[key]) for key in versions)
    specifiers = {specifier for patch in catalog.patches for specifier in (*patch.variants, *patch.unaffected)}
    named = {each: tuple(release for release in RELEASES if specifier_contains(each, release)) for each in specifiers}
    return Fingerprints(RELEASES, files, named)


def _record_of(releases: tuple[str, ...], source: bytes, rewrites: Mapping[str, Rewrite]) -> RecordedFile:
    """The fingerprint of a file. Raises CodemodRefused if it is not what a codemod expects."""
    module, edits = SourceFile(source), dict[str, tuple[editing.Edit, ...]]()
    for patch_id, rewrite in rewrites.items():
        try:
            edits[patch_id] = edits_of(rewrite, module)
            if edits_of(rewrite, module, fingerprinted=True) != edits[patch_id]:
                raise CodemodRefused("its functions are not found by their text")
        except CodemodRefused as error:
            raise CodemodRefused(f"{patch_id} on {releases[0]}: {error}") from error
    check_parses(editing.apply_edits(source, edits))
    unpatched_digest, at = hashlib.sha256(), 0
    changed = {patch_id: [edit for edit in own if not edit.is_import] for patch_id, own in edits.items()}
    for edit in sorted(edit for own in changed.values() for edit in own):
        unpatched_digest.update(source[at : edit.start])
        at = edit.stop
    unpatched_digest.update(source[at:])
    recorded = {
        patch_id: RecordedPatch(
            editing.digest_inserted_text(own),
            rewrites[patch_id].imports,
            tuple(
                RecordedEdit(e.start, e.stop, len(e.new), short_digest(source[e.start : e.stop]), short_digest(e.new))
                for e in changed[patch_id]
            ),
        )
        for patch_id, own in edits.items()
    }
    imports_at = next((edit.start for own in edits.values() for edit in own if edit.is_import), 0)
    return RecordedFile(releases, hash_of(source), unpatched_digest.hexdigest()[:DIGEST_LENGTH], imports_at, recorded)


def main() -> int:
    """Regenerate or check the file; the exit code."""
    target: Path = patches_folder() / FINGERPRINTS_FILE_NAME
    download_all()
    text = rendered(fingerprints_of(Catalog(load_patches(), Fingerprints((), {}, {}))))
    if "--check" in sys.argv[1:]:
        same = target.read_text(encoding="utf-8") == text
        print(f"{target.name} is {'up to date' if same else 'NOT what the wheels and the codemods give'}")
        return 0 if same else 1
    target.write_text(text, encoding="utf-8")
    print(f"wrote {target}")
    for release in unlisted_on_the_index():
        print(f"the index has {release} as well, which scripts/releases.py does not list")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
