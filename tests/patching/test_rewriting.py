"""How a change is addressed: nested statements, imports of runtime modules, statements that must be absent."""

from __future__ import annotations

import re

import pytest

from nfpatch.codemod import Change, CodemodRefused, Rewrite
from nfpatch.patching.rewriting import edits_of, rewritten
from nfpatch.patching.source import SourceFile

MODEL = b"""\
from __future__ import annotations

import math
from copy import deepcopy


class Model:
    def windows(self, step, size):
        if step == "train":
            n = 1
            if size is not None:
                n = draw(size)
                return n
            else:
                n = draw(0)
        elif step == "val":
            n = draw(size)
        else:
            n = 0
        with open(step) as file:
            n = draw(size)
        return n

    def fit(self):
        return self
"""
DRAW = "n = draw(size)"
OWN = "n = windows.draw(size)"


def rewrite(*inside: str, old: str = DRAW, new: str = OWN, **more: object) -> Rewrite:
    return Rewrite((Change("Model.windows", old, new, inside=inside),), **more)  # type: ignore[arg-type]


def changed_lines(source: bytes, codemod: Rewrite) -> list[tuple[int, str]]:
    """The numbers (from 1) and new text of the lines that the codemod changes, which both ways of matching agree on."""
    result = rewritten(source, {"patch": codemod})
    assert edits_of(codemod, SourceFile(source), fingerprinted=True) == edits_of(codemod, SourceFile(source))
    before, after = source.decode().splitlines(), result.decode().splitlines()
    assert len(before) == len(after)
    return [(number, new.strip()) for number, (old, new) in enumerate(zip(before, after), 1) if old != new]


@pytest.mark.parametrize(
    ("inside", "line"),
    [
        (('if step == "train":', "if size is not None:"), 12),
        (('if step == "train":', 'elif step == "val":'), 17),
        (("with open(step) as file:",), 21),
    ],
    ids=["if in if", "elif", "with"],
)
def test_a_change_is_made_in_the_one_block_that_it_names(inside: tuple[str, ...], line: int) -> None:
    assert changed_lines(MODEL, rewrite(*inside)) == [(line, OWN)]


def test_else_addresses_the_branch_of_the_statement_before_it() -> None:
    inside = ('if step == "train":', "if size is not None:", "else:")
    assert changed_lines(MODEL, rewrite(*inside, old="n = draw(0)", new="n = 0")) == [(15, "n = 0")]
    inside = ('if step == "train":', 'elif step == "val":', "else:")
    assert changed_lines(MODEL, rewrite(*inside, old="n = 0", new="n = 2")) == [(19, "n = 2")]


def test_new_statements_have_the_indentation_of_their_block() -> None:
    result = rewritten(MODEL, {"patch": rewrite("with open(step) as file:", new=f"{DRAW}\nif n:\n    n = 3")})
    assert b"            n = draw(size)\n            if n:\n                n = 3\n        return n\n" in result


@pytest.mark.parametrize(
    "inside",
    [
        (),
        ('if step == "test":',),
        ('if step == "train":',),
        ('if step == "train":', "if size is not None:", "if size is not None:"),
        ("with open(step) as file:", "else:"),
        ("else:",),
    ],
)
def test_a_missing_block_is_refused(inside: tuple[str, ...]) -> None:
    with pytest.raises(CodemodRefused, match=r"Model\.windows"):
        rewritten(MODEL, {"patch": rewrite(*inside)})


def with_another(block: str) -> bytes:
    return MODEL.replace(b"return n\n\n", f"with open(step) as file:\n            {block}\n\n".encode())


def test_of_two_equal_block_headers_the_one_with_the_statements_is_used() -> None:
    assert changed_lines(with_another("n = 4"), rewrite("with open(step) as file:")) == [(21, OWN)]
    assert changed_lines(with_another("n = 4"), rewrite("with open(step) as file:", old="n = 4", new="n = 5")) == [
        (23, "n = 5")
    ]


@pytest.mark.parametrize(("block", "old"), [(DRAW, DRAW), ("n = 4", "n = 5")], ids=["both", "neither"])
def test_an_ambiguous_block_header_is_refused(block: str, old: str) -> None:
    with pytest.raises(CodemodRefused, match=r"[02] times"):
        rewritten(with_another(block), {"patch": rewrite("with open(step) as file:", old=old)})


def test_runtime_modules_are_imported_once_before_the_first_import() -> None:
    change = Change("Model.fit", "return self", "return saving.saved(self)")
    one = Rewrite((change,), imports=("windows", "saving"))
    other = rewrite("with open(step) as file:", imports=("windows",))
    head = b"from __future__ import annotations\n\n%simport math\n"
    line = b"from neuralforecast._nfpatch import %s\n"
    assert rewritten(MODEL, {"b": one, "a": other}).startswith(head % (line % b"saving" + line % b"windows"))
    assert rewritten(MODEL, {"a": other}).startswith(head % (line % b"windows"))
    windows_lines = MODEL.replace(b"\n", b"\r\n")
    assert rewritten(windows_lines, {"a": other}) == rewritten(MODEL, {"a": other}).replace(b"\n", b"\r\n")


def test_a_hook_in_a_module_without_imports_is_refused() -> None:
    source = b"class Model:\n    def fit(self):\n        return self\n"
    with pytest.raises(CodemodRefused, match="import"):
        rewritten(source, {"a": Rewrite((Change("Model.fit", "return self", "return 1"),), imports=("saving",))})


def test_forbidden_statements_are_refused() -> None:
    hook = Change("Model", "def windows(self, step, size): ...")
    absent = Rewrite((hook,), absent={"Model": ("def teardown(self, stage): ...",), "Model.fit": ("self.a = 1",)})
    rewritten(MODEL, {"patch": absent})
    for where, text in (("Model", "def fit(self): ..."), ("Model.fit", "return self"), ("", "import math")):
        with pytest.raises(CodemodRefused, match=re.escape(where or text)):
            rewritten(MODEL, {"patch": absent._replace(absent={where: (text,)})})


def test_a_change_that_would_drop_an_unquoted_body_is_refused() -> None:
    head = "with open(step) as file:\n    ..."
    with pytest.raises(CodemodRefused, match=r"with open\(step\)"):
        rewritten(MODEL, {"patch": rewrite(old=head, new="with opened(step) as file:\n    ...")})
    assert rewritten(MODEL, {"patch": rewrite(old=head, new=f"{head}\nn = 5")}).count(b"n = 5") == 1
    params = Rewrite((Change("Model", "def fit(self): ...", "def fit(self, size=1): ..."),))
    assert b"    def fit(self, size=1):\n        return self\n" in rewritten(MODEL, {"patch": params})
