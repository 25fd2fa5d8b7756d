"""What counts as a read of a layer that a patch freezes or removes."""

from __future__ import annotations

import pytest

from nfpatch.codemod import Change, CodemodRefused, Rewrite
from nfpatch.patching.rewriting import rewritten

LAYER = """\
class Net:
    def __init__(self, size):
        self.out = Linear(size)
        self.inner = Inner()

    def forward(self, x):
        y = self.out(x)
        return self.inner(x, y)
"""
BUILD = "self.out = Linear(size)"
FREEZE = Change("Net.__init__", BUILD, f"{BUILD}\nself.out.requires_grad_(False)")
QUOTED = Change("Net.forward", "y = self.out(x)\nreturn self.inner(x, y)")


def frozen(source: str, *more: Change, condition: str = "") -> str:
    return rewritten(source.encode(), {"p": Rewrite((FREEZE, *more), guarded_attributes={"out": condition})}).decode()


def test_a_frozen_layer_may_be_read_by_code_that_the_patch_quotes() -> None:
    assert frozen(LAYER, QUOTED) == LAYER.replace(BUILD + "\n", BUILD + "\n        self.out.requires_grad_(False)\n")


@pytest.mark.parametrize(
    "more",
    [
        (),
        (Change("Net.forward", "return self.inner(x, y)"),),
        (Change("Net", "def forward(self, x): ..."),),
        (Change("Net.forward", "y = self.out(x)", "y = self.out(x)\nz = y"),),
    ],
    ids=["nothing", "another statement", "only the head", "a quoted statement that is changed"],
)
def test_a_frozen_layer_may_not_be_read_by_other_code(more: tuple[Change, ...]) -> None:
    with pytest.raises(CodemodRefused, match=r"`out`.* line 7\b"):
        frozen(LAYER, *more)


def test_the_same_statement_in_another_function_counts_as_a_read() -> None:
    twice = LAYER + "\n    def predict(self, x):\n        y = self.out(x)\n        return self.inner(x, y)\n"
    with pytest.raises(CodemodRefused, match=r"`out`.* line 11\b"):
        frozen(twice, QUOTED)


def test_added_lines_above_do_not_shift_the_quoted_ones() -> None:
    comment = "\n".join(f"# {number}" for number in range(9))
    above = Change("Net.__init__", "self.inner = Inner()", f"self.inner = Inner()\n{comment}\nself.size = size")
    with pytest.raises(CodemodRefused, match=r"`out`.* line 9\b"):
        frozen(LAYER + "        return self.out\n", QUOTED, above)


UNREAD = LAYER.replace("        y = self.out(x)\n        return self.inner(x, y)\n", "        return x\n")


@pytest.mark.parametrize(
    "line",
    [
        "self.out.requires_grad_(False)",
        "model.net.out.requires_grad_(False)",
    ],
)
def test_requires_grad_is_not_a_read(line: str) -> None:
    assert frozen(f"{UNREAD}\n\n{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "self.out.requires_grad_(True)",
        "self.out.requires_grad_()",
        "self.out.requires_grad_(flag)",
        "self.out.requires_grad_(requires_grad=False)",
        "self.out.weight.requires_grad_(False)",
        "self.out(x).requires_grad_(False)",
        "self.out.requires_grad",
        "y = self.out.requires_grad_(False)(x)",
        "getattr(self, 'out').requires_grad_(False)",
    ],
)
def test_similar_calls_may_be_reads(line: str) -> None:
    with pytest.raises(CodemodRefused, match=r"`out`.* line 10\b"):
        frozen(f"{UNREAD}\n\n{line}\n")
