"""Write the skeleton of a patch and of its test: `make new-patch ID=tft-unused-gate [GROUP=multi-process]`.

The test fails until both are filled in, and says what is missing.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from nfpatch.catalog import GROUPS

ROOT = Path(__file__).resolve().parent.parent
PATCH = '''"""TODO: what goes wrong for a user, and why, in a line or two.

TODO: what the patch changes, and what stays as it is.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/TODO.py"

patch = Patch(
    id="{id}",
    summary="TODO: the bug in one line, as a user would say it",
    group="{group}",
    model="any",  # or the name of the one model
    upstream="not fixed yet: docs/upstream/{id}.md",
    # Each release is named once: by a variant if it has the bug, else with a reason
    variants={{
{variant}
    }},
    unaffected={{"": "TODO: why the other releases need no patch"}},
{facts}
    # Trainings that show the bug without the patch, and none with it
    cases=(
        # Case("Model", "configuration", options={{"hidden_size": 8}}),
    ),
)
'''
VARIANT = """\
        # ">=3.2": {FILE: Rewrite((Change("Model.__init__", old="a = 1", new="a = 2"),))},"""
SYMPTOMS = """\
    symptoms=(),  # parts of the error messages that the bug causes"""
FREEZE = """\
        # ">=3.2": {
        #     FILE: Rewrite(
        #         (Change("Model.__init__", old="self.a = A()", new="self.a = A()\\nself.a.requires_grad_(False)"),),
        #         guarded_attributes={"a": ""},  # nothing may read it
        #     )
        # },"""
UNUSED = """\
    unused_parameters=("TODO: patterns for the names that `nfpatch audit` prints",),"""
TEST = '''"""TODO: what the patch does, in one line."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

# TODO: the function of neuralforecast, cut down to the statements that the patch expects
BEFORE = """
class Model:
    def __init__(self):
        a = 1
"""

AFTER = """
class Model:
    def __init__(self):
        a = 2
"""


def test_todo_what_is_changed() -> None:
    assert patched("{id}", "3.3.0", BEFORE) == AFTER


def test_todo_a_source_for_which_the_patch_would_be_wrong_is_refused() -> None:
    twin = BEFORE.replace("a = 1", "a = 3")
    with pytest.raises(CodemodRefused):
        patched("{id}", "3.3.0", twin)
'''
NEXT = """wrote {patch}
wrote {test}

Next: fill in every TODO (docs/how-to/writing-a-patch.md explains each field), until this passes:

    pytest tests/patches -k "{module} or {id}"

Then go on with step 3 of "From a bug to a patch" in CONTRIBUTING.md."""


def main() -> int:
    """Write both files, unless one of them exists; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("id", help="lower-case words with hyphens, such as tft-unused-gate")
    parser.add_argument("--group", choices=[*GROUPS], default="unused-parameters")
    options = parser.parse_args()
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", options.id):
        parser.error(f"{options.id!r} is not an id: use two or more lower-case words with hyphens")
    module = options.id.replace("-", "_")
    is_layer = options.group == "unused-parameters"
    contents = {
        ROOT / "patches" / f"{module}.py": PATCH.format(
            id=options.id,
            group=options.group,
            variant=FREEZE if is_layer else VARIANT,
            facts=UNUSED if is_layer else SYMPTOMS,
        ),
        ROOT / "tests" / "patches" / f"test_{module}.py": TEST.format(id=options.id, module=module),
    }
    for path in contents:
        if path.exists():
            print(f"{path.relative_to(ROOT)} exists. Choose another id, or remove it.", file=sys.stderr)
            return 1
    for path, content in contents.items():
        path.write_text(content, encoding="utf-8")
    patch, test = (path.relative_to(ROOT) for path in contents)
    print(NEXT.format(patch=patch, test=test, module=module, id=options.id))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
