"""Write `patches/fingerprints.json`: the SHA-256 of each target file in each release, as released and as patched.

With --check nothing is written, and the exit code is 1 if the file on disk is not the one that would be written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from releases import RELEASES, download_all, read_member, unlisted_on_the_index

from nfpatch.catalog import FINGERPRINTS_FILE_NAME, Catalog, load_catalog, patches_folder
from nfpatch.codemod import Codemod, rewrite
from nfpatch.installs.ledger import hash_of


class Fingerprints:
    """The fingerprints of a catalog's files; those of a file that several releases share are computed once."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._known: dict[tuple[object, ...], dict[str, str]] = {}

    def of(self, release: str) -> dict[str, dict[str, str]]:
        """File -> patch set -> SHA-256 for one release, every subset of the patches that it needs included."""
        found: dict[str, dict[str, str]] = {}
        for file in self.catalog.files:
            source = read_member(release, file)
            if source is not None:
                codemods = {
                    patch.id: codemod
                    for patch in self.catalog.patches_of(file)
                    if (codemod := patch.codemod_for(release)) is not None
                }
                key = (file, source, *map(id, codemods.values()))
                if key not in self._known:
                    self._known[key] = self._of_each_set(source, codemods)
                found[file] = self._known[key]
        return found

    def _of_each_set(self, source: bytes, codemods: Mapping[str, Codemod]) -> dict[str, str]:
        sets = [chosen for count in range(len(codemods) + 1) for chosen in combinations(codemods, count)]
        contents = {
            chosen: rewrite(source, {id_: codemods[id_] for id_ in chosen}) if chosen else source for chosen in sets
        }
        return {self.catalog.patch_set_key(chosen): hash_of(content) for chosen, content in contents.items()}


def render(catalog: Catalog) -> str:
    """The text of the fingerprints file."""
    fingerprints = Fingerprints(catalog)
    return json.dumps({release: fingerprints.of(release) for release in RELEASES}, indent=1) + "\n"


def main() -> int:
    """Regenerate or check the file; the exit code."""
    target: Path = patches_folder() / FINGERPRINTS_FILE_NAME
    download_all()
    text = render(load_catalog())
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
