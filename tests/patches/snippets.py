"""Apply a shipped patch to a small source text."""

from __future__ import annotations

from textwrap import dedent
from typing import Optional

import pytest

from nfpatch.catalog import load_catalog
from nfpatch.patching.rewriting import rewritten

CATALOG = load_catalog()


def patched(patch_id: str, release: str, text: str, file: Optional[str] = None) -> str:
    """The text after the patch of this id, in the variant of this release; the text may be indented as a whole.

    The file must be named where the variant rewrites several. Raises CodemodRefused if the text is not what the
    patch expects.
    """
    (patch,) = CATALOG.select([patch_id])
    rewrites = CATALOG.rewrites_for(patch, release)
    if not rewrites:
        pytest.fail(f"patches/{patch_id.replace('-', '_')}.py has no variant for {release}")
    if file is None:
        (file,) = rewrites
    return rewritten(dedent(text).encode(), {patch_id: rewrites[file]}).decode()
