"""What a shipped patch makes of a small source text."""

from __future__ import annotations

from textwrap import dedent

from nfpatch.catalog import load_catalog
from nfpatch.patching.rewriting import rewritten

CATALOG = load_catalog()


def patched(patch_id: str, release: str, text: str) -> str:
    """The text after the patch of this id, in the variant of this release; the text may be indented as a whole.

    Raises CodemodRefused where the text is not what the patch expects.
    """
    (patch,) = CATALOG.select([patch_id])
    (rewrite,) = CATALOG.rewrites_for(patch, release).values()
    return rewritten(dedent(text).encode(), {patch_id: rewrite}).decode()
