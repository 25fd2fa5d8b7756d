from __future__ import annotations

import fingerprints
from releases import RELEASES

from nfpatch.catalog import FINGERPRINTS_FILE_NAME, load_catalog, patches_folder


def test_the_recorded_fingerprints_are_what_the_wheels_and_the_codemods_give() -> None:
    recorded = (patches_folder() / FINGERPRINTS_FILE_NAME).read_text(encoding="utf-8")
    assert recorded == fingerprints.render(load_catalog())


def test_every_release_has_a_released_fingerprint_of_each_file_it_ships() -> None:
    catalog = load_catalog()
    assert catalog.releases == RELEASES
    for release in RELEASES:
        for patch in catalog.patches:
            if patch.codemod_for(release) is not None:
                assert catalog.fingerprint(release, patch.file, []) is not None
                assert catalog.fingerprint(release, patch.file, [patch.id]) is not None
