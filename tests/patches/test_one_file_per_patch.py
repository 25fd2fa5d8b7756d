"""Each patch has a test file here: a source text before and after, and a similar one that the patch refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from snippets import CATALOG

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def test_each_file_is_that_of_a_patch() -> None:
    files = {path.name for path in FOLDER.glob("test_*.py")} - {Path(__file__).name}
    assert files == {f"test_{patch.id.replace('-', '_')}.py" for patch in CATALOG.patches}


IDS = [patch.id for patch in CATALOG.patches]


@pytest.mark.parametrize("patch_id", IDS)
def test_no_field_of_a_skeleton_is_left_to_fill_in(patch_id: str) -> None:
    module = patch_id.replace("-", "_")
    for path in (f"patches/{module}.py", f"tests/patches/test_{module}.py"):
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        assert [f"{path}:{number}" for number, line in enumerate(lines, 1) if "todo" in line.lower()] == []


@pytest.mark.parametrize("patch_id", IDS)
def test_a_patch_of_unused_parameters_names_them(patch_id: str) -> None:
    (patch,) = CATALOG.select([patch_id])
    assert bool(patch.unused_parameters) == (patch.group == "unused-parameters")


@pytest.mark.parametrize("patch_id", IDS)
def test_it_shows_the_newest_variant_and_a_twin_that_is_refused(patch_id: str) -> None:
    text = (FOLDER / f"test_{patch_id.replace('-', '_')}.py").read_text(encoding="utf-8")
    (patch,) = CATALOG.select([patch_id])
    assert patch.variants, f"{patch_id} has no variants yet"
    *_, newest = patch.variants
    of_newest = [
        release for release in CATALOG.releases if CATALOG.rewrites_for(patch, release) == patch.variants[newest]
    ]
    assert any(
        f'patched("{patch_id}", "{release}"' in " ".join(text.split()).replace("( ", "(") for release in of_newest
    )
    assert "pytest.raises(CodemodRefused" in text
