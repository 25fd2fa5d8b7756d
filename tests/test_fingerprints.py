"""The fingerprints of the releases, and the patches that are detected with them."""

from __future__ import annotations

from itertools import combinations

import fingerprints
import pytest
from releases import RELEASES, read_member
from support import long

from nfpatch.catalog import FINGERPRINTS_FILE_NAME, Catalog, load_catalog, patches_folder, specifier_contains
from nfpatch.fingerprints import RecordedFile, rendered
from nfpatch.patching.edits import Edit, apply_edits, digest_edits
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def versions_of(catalog: Catalog) -> list[tuple[str, RecordedFile]]:
    return [(file, known) for file, versions in catalog.fingerprints.files.items() for known in versions]


def test_the_fingerprints_match_the_wheels_and_the_codemods(catalog: Catalog) -> None:
    recorded = (patches_folder() / FINGERPRINTS_FILE_NAME).read_text(encoding="utf-8")
    assert recorded == rendered(fingerprints.fingerprints_of(catalog))


def test_every_patch_has_a_fingerprint_for_each_file_and_release(catalog: Catalog) -> None:
    assert catalog.releases == RELEASES
    for release in RELEASES:
        for patch in catalog.patches:
            claimed = [
                variant for specifier, variant in patch.variants.items() if specifier_contains(specifier, release)
            ]
            files = [*claimed[0]] if claimed else []
            assert [*catalog.files_of(patch, release)] == sorted(files)


def test_edits_of_two_patches_never_overlap_nor_insert_at_the_same_position(catalog: Catalog) -> None:
    for file, known in versions_of(catalog):
        edits = sorted((edit.start, edit.stop, name) for name, patch in known.patches.items() for edit in patch.edits)
        for one, other in zip(edits, edits[1:]):
            assert one[1] <= other[0], f"{one} and {other} in {file}, {known.releases}"
            assert one[:2] != other[:2] or one[0] < one[1], f"{one} and {other} in {file}, {known.releases}"


def test_the_fingerprints_are_small() -> None:
    assert (patches_folder() / FINGERPRINTS_FILE_NAME).stat().st_size <= 80_000


@pytest.mark.parametrize("releases", [{"1.7.4", "3.3.0"}, long(set(RELEASES))], ids=["a sample", "every release"])
def test_any_set_of_patches_is_recognised_by_its_bytes(releases: set[str], catalog: Catalog) -> None:
    recognised = 0
    for file, known in versions_of(catalog):
        if releases.isdisjoint(known.releases):
            continue
        release = known.releases[0]
        source = read_member(release, file)
        assert source is not None
        edits: dict[str, tuple[Edit, ...]] = {}
        for patch in catalog.select([*known.patches]):
            edits[patch.id] = edits_of(
                catalog.rewrites_for(patch, release)[file], SourceFile(source), fingerprinted=True
            )
            assert digest_edits(edits[patch.id]) == known.patches[patch.id].sha256
        chosen = [set(some) for number in range(len(edits) + 1) for some in combinations(edits, number)]
        for some in chosen if len(chosen) <= 16 else [*chosen[:8], *chosen[-8:]]:
            result = apply_edits(source, {name: edits[name] for name in some})
            assert known.detect_patches(result) == some
            assert known.detect_patches(result + b"#") is None
            assert known.detect_patches(result.replace(b"import", b"imp0rt", 1)) is None
            recognised += 1
    assert recognised > 50


def test_a_file_with_half_of_a_patch_is_unknown(catalog: Catalog) -> None:
    file = "neuralforecast/common/_base_model.py"
    (known,) = (known for known in catalog.fingerprints.files[file] if "1.7.4" in known.releases)
    source = read_member("1.7.4", file)
    assert source is not None
    (patch,) = catalog.select(["trajectories-after-spawn"])
    imports, first, *others = edits_of(catalog.rewrites_for(patch, "1.7.4")[file], SourceFile(source))
    assert imports.is_import
    assert others
    for half in ([imports, first], [first, *others], [imports]):
        assert known.detect_patches(apply_edits(source, {patch.id: half})) is None
    assert known.detect_patches(apply_edits(source, {patch.id: [imports, first, *others]})) == {patch.id}
