"""Write `patches/fingerprints.json`: the SHA-256 of each target file in each release, as released and as patched.

With --check nothing is written, and the exit code is 1 if the file on disk is not the one that would be written.
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import combinations
from pathlib import Path

from releases import RELEASES, download_all, read_member

from nfpatch.catalog import FINGERPRINTS_FILE_NAME, Catalog, load_catalog, patches_folder
from nfpatch.codemod import rewrite


def fingerprints_of(catalog: Catalog, release: str) -> dict[str, dict[str, str]]:
    """File -> patch set -> SHA-256 for one release, every subset of the patches that it needs included."""
    found: dict[str, dict[str, str]] = {}
    for file in catalog.files:
        source = read_member(release, file)
        if source is None:
            continue
        codemods = {
            patch.id: codemod
            for patch in catalog.patches_of(file)
            if (codemod := patch.codemod_for(release)) is not None
        }
        found[file] = {
            catalog.patch_set_key(chosen): hashlib.sha256(
                rewrite(source, {id_: codemods[id_] for id_ in chosen})
            ).hexdigest()
            for count in range(len(codemods) + 1)
            for chosen in combinations(codemods, count)
        }
    return found


def render(catalog: Catalog) -> str:
    """The text of the fingerprints file."""
    return json.dumps({release: fingerprints_of(catalog, release) for release in RELEASES}, indent=1) + "\n"


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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
