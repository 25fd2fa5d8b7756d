"""How edits change bytes, and which edits are refused."""

from __future__ import annotations

import random

import pytest

from nfpatch.codemod import Change, CodemodRefused, Rewrite
from nfpatch.patching.edits import Edit, apply_edits, digest_edits, merge_adjacent
from nfpatch.patching.rewriting import edits_of, rewritten
from nfpatch.patching.source import SourceFile

TEXT = b"zero\none\ntwo\nthree\n"


def test_edits_give_the_same_result_in_any_order() -> None:
    edits = {"a": [Edit(0, 5, b"0\n")], "b": [Edit(9, 13, b""), Edit(19, 19, b"four\n")], "c": [Edit(6, 6, b"n")]}
    whole = b"0\nonne\nthree\nfour\n"
    for seed in range(5):
        names = random.Random(seed).sample(sorted(edits), 3)
        assert apply_edits(TEXT, {name: edits[name] for name in names}) == whole
    assert apply_edits(TEXT, {}) == TEXT


def test_adjacent_edits_are_allowed() -> None:
    one, two = Edit(0, 5, b"0\n"), Edit(5, 9, b"1\n")
    for edits in ({"a": [two, one]}, {"a": [one], "b": [two]}, {"a": [two], "b": [one]}):
        assert apply_edits(TEXT, edits) == b"0\n1\ntwo\nthree\n"
    between = {"b": [one], "c": [two], "a": [Edit(5, 5, b"half\n")]}
    assert apply_edits(TEXT, between) == b"0\nhalf\n1\ntwo\nthree\n"


def test_imports_of_runtime_modules_are_merged() -> None:
    def imports(*names: str) -> Edit:
        return Edit(5, 5, "".join(f"import {name}\n" for name in names).encode(), is_import=True)

    edits = {"b": [imports("saving", "search"), Edit(9, 13, b"")], "a": [imports("ranks", "saving")]}
    assert apply_edits(TEXT, edits) == b"zero\nimport ranks\nimport saving\nimport search\none\nthree\n"
    assert apply_edits(TEXT, {"b": edits["b"]}) == b"zero\nimport saving\nimport search\none\nthree\n"
    with pytest.raises(CodemodRefused, match="c and a"):
        apply_edits(TEXT, {**edits, "c": [Edit(5, 5, b"x\n")]})


@pytest.mark.parametrize(
    ("one", "other"),
    [(Edit(0, 5, b""), Edit(4, 6, b"")), (Edit(5, 5, b"x"), Edit(5, 5, b"y"))],
    ids=["overlap", "the same position"],
)
def test_two_conflicting_patches_are_refused_by_name(one: Edit, other: Edit) -> None:
    with pytest.raises(CodemodRefused, match="second and first"):
        apply_edits(TEXT, {"second": [other], "first": [one]})


def test_adjacent_edits_of_one_patch_are_merged() -> None:
    assert merge_adjacent([Edit(5, 9, b"b"), Edit(0, 5, b"a"), Edit(13, 13, b"c")]) == (
        Edit(0, 9, b"ab"),
        Edit(13, 13, b"c"),
    )
    with pytest.raises(CodemodRefused):
        merge_adjacent([Edit(0, 5, b""), Edit(4, 6, b"")])


def test_the_digest_depends_on_positions_and_bytes() -> None:
    edits = [(), (Edit(1, 2, b"a"),), (Edit(1, 3, b"a"),), (Edit(1, 2, b"b"),), (Edit(1, 2, b"a"), Edit(4, 4, b""))]
    assert len({digest_edits(each) for each in edits}) == len(edits)


MODULE = b'''"""A module.

class Model:
    def fit(self):
        pass
"""
import torch

LIMIT = 3


class Model:
    """
def fit(self): of a docstring
    """

    @property
    def size(self):
        return 1

    def fit(self, x):
        total = 0
        for each in x:
            total += each

        # The answer
        answer = total
        return answer


class Other:
    def fit(self, x):
        return x
'''


def test_the_text_search_and_the_syntax_tree_find_the_same_function() -> None:
    source = SourceFile(MODULE)
    for where in ("Model.fit", "Other.fit", "Other", "Model", "Model.size", ""):
        by_tree, by_text = source.definition(where), source.definition_by_text(where)
        statement, twin = by_tree.node.body[-1], by_text.node.body[-1]
        assert by_tree.offset(statement.lineno) == by_text.offset(twin.lineno), where


@pytest.mark.parametrize("fingerprinted", [False, True])
def test_statements_at_module_level_can_be_changed(fingerprinted: bool) -> None:
    change = Rewrite((Change("", "LIMIT = 3", "LIMIT = 4\nMORE = 5"),))
    edits = edits_of(change, SourceFile(MODULE), fingerprinted)
    assert apply_edits(MODULE, {"p": edits}) == MODULE.replace(b"LIMIT = 3\n", b"LIMIT = 4\nMORE = 5\n")


def test_a_method_can_be_added_after_another_whose_body_is_patched() -> None:
    added = Change("Model", "def fit(self, x): ...", "def fit(self, x): ...\n\ndef more(self):\n    return 2")
    inside = Change("Model.fit", "total = 0", "total = 1")
    result = rewritten(MODULE, {"a": Rewrite((added,)), "b": Rewrite((inside,))})
    more = b"        return answer\n\n    def more(self):\n        return 2\n"
    assert result == MODULE.replace(b"total = 0", b"total = 1").replace(b"        return answer\n", more)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_method_added_before_another_is_followed_by_a_blank_line(ending: bytes) -> None:
    before = Change("Model", "def fit(self, x): ...", "def more(self):\n    return 2\n\ndef fit(self, x): ...")
    source = MODULE.replace(b"\n", ending)
    (edit,) = edits_of(Rewrite((before,)), SourceFile(source))
    assert edit.new == ending.join([b"    def more(self):", b"        return 2", b"", b""])
    assert source[edit.start :].startswith(b"    def fit(")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""], ids=["LF", "CRLF", "none"])
def test_statements_added_at_the_end_of_a_file_are_on_their_own_lines(ending: bytes) -> None:
    source = b"def f(x):\n    y = x\n    return y".replace(b"\n", ending or b"\n") + ending
    change = Change("f", "y = x", "y = x\n# more\ny += 1")
    after = Change("f", "return y", "return y\nraise ValueError")
    newline = ending or b"\n"
    expected = newline.join(
        [b"def f(x):", b"    y = x", b"    # more", b"    y += 1", b"    return y", b"    raise ValueError"]
    )
    assert rewritten(source, {"p": Rewrite((change, after))}) == expected + ending


def test_each_change_is_matched_against_the_unpatched_file() -> None:
    changes = (
        Change("Model.fit", "answer = total", "answer = total + 1"),
        Change("Model.fit", "return answer", "return int(answer)"),
        Change("Model.fit", "total = 0", ""),
    )
    result = rewritten(MODULE, {"p": Rewrite(changes)})
    expected = MODULE.replace(b"        total = 0\n", b"").replace(b"answer = total\n", b"answer = total + 1\n")
    assert result == expected.replace(b"return answer", b"return int(answer)")
