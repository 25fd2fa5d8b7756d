"""The codemods on random input: they refuse it, or the result parses and only the named statements differ.

The inputs are mutated model files of many releases. The expected result is computed with `ast`, not with LibCST, and
its lines are compared with those of the source byte for byte.

`HYPOTHESIS_EXAMPLES=20000 pytest tests/test_codemod_fuzz.py` tries more inputs than CI does, other ones in each run.
"""

from __future__ import annotations

import ast
import copy
import os
import re
import subprocess
import sys
import textwrap
import tokenize
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Callable, Optional, Union

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from releases import read_member
from support import NBEATSX, TFT, run_nfpatch, snapshot

from nfpatch.catalog import load_catalog
from nfpatch.codemod import Change, CodemodRefused, Rewrite
from nfpatch.patching.rewriting import check_parses, rewritten

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
bounded = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
STEMGNN = "neuralforecast/models/stemgnn.py"
SOFTSSHARP = "neuralforecast/models/softssharp.py"


@dataclass(frozen=True)
class Subject:
    """A patch's file, the releases whose file is mutated, and a text in the lines that it changes."""

    file: str
    releases: tuple[str, ...]
    target: bytes


# One patch of each kind: statements removed, guarded, added, added with a condition; a nested one replaced.
SUBJECTS = {
    "nbeatsx-unused-out": Subject(
        NBEATSX, ("1.1.0", "1.2.0", "1.4.0", "1.6.4", "1.7.4", "1.7.5", "1.7.6"), b"self.out = "
    ),
    "tft-static-encoder": Subject(
        TFT, ("1.0.0", "1.1.0", "1.4.0", "1.7.2", "1.7.3", "1.7.4", "1.7.5"), b"self.static_encoder = "
    ),
    "tft-static-context": Subject(TFT, ("1.0.0", "1.4.0", "1.7.4", "2.0.0", "3.3.0"), b"self.vsn"),
    "stemgnn-backcast": Subject(STEMGNN, ("1.5.0", "3.3.0"), b"self.backcast_short_cut = "),
    "softssharp-position-scale": Subject(SOFTSSHARP, ("3.1.9",), b"self.pe_keep_prob"),
}


@cache
def released(release: str, file: str) -> bytes:
    source = read_member(release, file)
    assert source is not None
    return source


@cache
def codemod_of(release: str, patch_id: str) -> Rewrite:
    """The codemod for this release, or that for 1.7.4 if there is none."""
    (patch,) = load_catalog().select([patch_id])
    catalog = load_catalog()
    (rewrite,) = (catalog.rewrites_for(patch, release) or catalog.rewrites_for(patch, "1.7.4")).values()
    return rewrite


def patched(source: bytes, codemod: Rewrite) -> Optional[bytes]:
    """The result of `apply --allow-modified`, or None if it refuses. Other exceptions fail the test."""
    try:
        result = rewritten(source, {"the-patch": codemod})
        check_parses(result)
    except CodemodRefused:
        return None
    return result


# --- the expected result


Block = Union[ast.Module, ast.ClassDef, ast.FunctionDef, ast.If]


@dataclass(frozen=True)
class Named:
    """The statements that a change replaces: their block, their indices in it, their first and last line (from 0)."""

    block: Block
    start: int
    end: int
    first: int
    last: int


def tree_of(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def is_like(found: ast.stmt, expected: ast.stmt) -> bool:
    """Whether two statements are equal; a body of `...` in the expected one matches any."""
    if isinstance(expected, ast.FunctionDef) and ast.unparse(expected.body[0]) == "...":
        found = copy.copy(found)
        found.body = expected.body  # type: ignore[attr-defined]
    return ast.dump(found) == ast.dump(expected)


def named_statements(tree: ast.Module, change: Change) -> Named:
    """The statements of the source that a change replaces; the test fails unless they occur exactly once."""
    block: Block = tree
    for name in change.where.split("."):
        (block,) = (
            node for node in block.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name
        )
    for head in change.inside:
        (block,) = (node for node in block.body if isinstance(node, ast.If) and f"if {ast.unparse(node.test)}:" == head)
    expected = ast.parse(textwrap.dedent(change.old).strip()).body
    (start,) = (
        place
        for place in range(len(block.body) - len(expected) + 1)
        if all(map(is_like, block.body[place : place + len(expected)], expected))
    )
    first, last = block.body[start], block.body[start + len(expected) - 1]
    # only the header of a method whose body may be any
    end = last.body[0].lineno - 1 if isinstance(last, ast.FunctionDef) else last.end_lineno
    assert end is not None
    return Named(block, start, start + len(expected), first.lineno - 1, end - 1)


def apply_changes(tree: ast.Module, codemod: Rewrite) -> ast.Module:
    """Change the tree in place as the patch should; return it."""
    for change in codemod.changes:
        named = named_statements(tree, change)
        if change.new is not None:
            new = ast.parse(textwrap.dedent(change.new).strip()).body
            if new and isinstance(new[0], ast.FunctionDef):
                new[0].body = named.block.body[named.start].body  # type: ignore[attr-defined]
            named.block.body[named.start : named.end] = new
    return tree


def readers(tree: ast.Module, attribute: str, condition: str) -> list[str]:
    """The reads of the attribute outside of its condition, except its assignment."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == condition:
            for other in (node.test, *node.orelse):
                visit(other)
            return
        if isinstance(node, ast.Assign) and [*map(ast.unparse, node.targets)] == [f"self.{attribute}"]:
            visit(node.value)
            return
        if isinstance(node, ast.Call) and ast.unparse(node).endswith(f".{attribute}.requires_grad_(False)"):
            return
        if (isinstance(node, ast.Attribute) and node.attr == attribute) or (
            isinstance(node, ast.Constant) and node.value == attribute
        ):
            found.append(ast.unparse(node))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def lines_of(source: bytes) -> list[bytes]:
    return re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source)


def is_blank_or_comment(line: bytes) -> bool:
    return not line.strip(b" \t\x0c\r\n") or line.lstrip(b" \t\x0c").startswith(b"#")


def check_lines(source: bytes, result: bytes, codemod: Rewrite) -> None:
    """Check that all other lines are unchanged, except comments and blank lines next to removed statements."""
    before, after, tree = lines_of(source), lines_of(result), tree_of(source)
    changes = [(named_statements(tree, change), change.new) for change in codemod.changes if change.new is not None]
    changes.sort(key=lambda pair: pair[0].first)
    spans = []
    for named, new in changes:
        start, end = named.first, named.last + 1
        while not new and start and is_blank_or_comment(before[start - 1]):
            start -= 1
        if 0 < start < named.first and before[start - 1].rstrip().endswith(b"\\"):
            start += 1  # a comment on a continuation line belongs to the line above
        while not new and end < len(before) and is_blank_or_comment(before[end]):
            end += 1
        spans.append((start, end))
    place = spans[0][0]
    assert after[:place] == before[:place]
    for (named, new), (start, end), next_start in zip(changes, spans, [*(s for s, _ in spans[1:]), len(before)]):
        unchanged = before[end:next_start]
        number = next(n for n in range(len(after)) if after[place + n : place + n + len(unchanged)] == unchanged)
        if next_start == len(before):
            number = len(after) - place - len(unchanged)
            assert number >= 0
            assert after[place + number :] == unchanged
        if new:
            check_new(before[start:end], after[place : place + number], new)
        else:
            check_removed(before[start : named.first], before[named.last + 1 : end], after[place : place + number])
        place += number + len(unchanged)


def check_new(old: Sequence[bytes], lines: Sequence[bytes], new: str) -> None:
    """Check that every line is an old one, possibly indented, or one of the patch."""
    words = "".join(new.split())
    for line in lines:
        is_of_patch = "".join(line.decode("utf-8", "replace").split()).rstrip(",") in words
        assert is_of_patch or any(line.endswith(each.lstrip(b" \t\x0c")) for each in old)


def check_removed(above: Sequence[bytes], below: Sequence[bytes], lines: Sequence[bytes]) -> None:
    """Check that the lines above and below are left, without the statement's own comment and repeated blank lines."""
    own = len(above)
    while own and above[own - 1].strip():
        own -= 1
    assert [line for line in lines if line.strip()] == [line for line in (*above[:own], *below) if line.strip()]
    remaining = iter((*above[:own], *below))
    assert all(line in remaining for line in lines), "no line is new"


def without_imports(result: bytes, codemod: Rewrite) -> bytes:
    """The result without the imports of runtime modules, each of which must be there once."""
    lines = lines_of(result)
    for name in codemod.imports:
        imported = f"from neuralforecast._nfpatch import {name}".encode()
        (number,) = (number for number, line in enumerate(lines) if line.strip() == imported)
        del lines[number]
    return b"".join(lines)


def check(source: bytes, codemod: Rewrite) -> bool:
    """Compare the patched source with the expected one; False if the codemod refuses."""
    result = patched(source, codemod)
    if result is None:
        return False
    result = without_imports(result, codemod)
    expected, after = apply_changes(tree_of(source), codemod), tree_of(result)
    assert ast.dump(expected) == ast.dump(after)
    check_lines(source, result, codemod)
    for attribute, condition in codemod.guarded_attributes.items():
        assert readers(after, attribute, condition) == []
    assert tokenize.detect_encoding(BytesIO(result).readline) == tokenize.detect_encoding(BytesIO(source).readline)
    return True


# --- the mutations


Mutation = Callable[[bytes], bytes]

FRAGMENTS = [
    *("self.out", "self.static_encoder", "self.static_encoder = None", "self.out = None", "getattr(self, 'out')"),
    *("self.out: int = 3", "self.out += 1", "del self.static_encoder", "for self.out in x: pass", "x[self.out]"),
    *("f'{self.out}'", "'static_encoder'", "'out.weight'", "b'out'", "r'\\out'", "'\\N{out}'", "'\\xout'", "'\\out'"),
    *("if True:", "else:", "elif x:", "try:", "finally:", "except* E:", "with a as b:", "while 0:", "lambda: 0"),
    *("match x:", "case TFT(out=1):", "async def f(): await x", "@decorator", "class TFT: pass", "class NBEATSx: pass"),
    *("def __init__(self): pass", "def forward(self): return self.out", "x = 1; y = 2", ";", "\\", "# comment", "#"),
    *('"""', "'''", "'", '"', "(", ")", "[", "]", "{", "}", ":", ",", "=", ":=", "->", "...", "*", "**", "\t", "\f"),
    *("\0", "\x1a", "\u2028", "\x85", "\x0b", "\xa0", "\ufeff", "é", "🎉", "print x", "exec 'x'", "1_000", "0777"),
    *("import a.b as out", "from x import *", "global out", "nonlocal out", "return", "yield out", "raise"),
    *("if s_inp is not None:", "if self.loss.outputsize_multiplier > 1:", "if self.stat_exog_size > 0:", "pass", "..."),
    *("# -*- coding: latin-1 -*-", "# coding: utf-16", "# coding: nonsense", "type X = int", "def f[T](x: T): pass"),
]  # fmt: skip
DEEP = [
    *(("(", "1", ")"), ("[", "1", "]"), ("-", "1", ""), ("not ", "1", ""), ("1 + ", "1", ""), ("a and ", "b", "")),
    *(("lambda: ", "1", ""), ("1 if 1 else ", "1", ""), ("f(", "x", ")"), ("", "x", ".y"), ("", "x", "[0]")),
    *(("{1: ", "1", "}"), ("", "import a", ".b"), ("", "f", "()"), ("", "if a: pass\n", "elif a: pass\n")),
]  # fmt: skip


@st.composite
def places(draw: st.DrawFn, source: bytes, target: bytes) -> int:
    """The number of a line, in half of the draws near the target."""
    lines = lines_of(source)
    near = [number for number, line in enumerate(lines) if target in line]
    if near and draw(st.booleans()):
        middle = draw(st.sampled_from(near))
        return max(0, min(len(lines) - 1, middle + draw(st.integers(-8, 8))))
    return draw(st.integers(0, max(0, len(lines) - 1)))


@st.composite
def mutated(draw: st.DrawFn, source: bytes, target: bytes) -> bytes:
    """The source after one mutation."""
    lines = lines_of(source)
    if not lines:
        return source
    place = draw(places(source, target))
    line = lines[place]
    body, ending = line.rstrip(b"\r\n"), line[len(line.rstrip(b"\r\n")) :]
    text = body.lstrip(b" \t")
    indent = body[: len(body) - len(text)]
    other = draw(places(source, target))
    end = min(len(lines), place + draw(st.integers(1, 8)))
    fragment = draw(st.sampled_from(FRAGMENTS)).encode()
    kind = draw(st.sampled_from(KINDS))
    event(kind)
    if kind == "delete":
        del lines[place:end]
    elif kind == "duplicate":
        lines[place:place] = lines[place:end]
    elif kind == "swap":
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == "move":
        lines.insert(other, lines.pop(place))
    elif kind == "indent":
        by = draw(st.sampled_from([b" ", b"    ", b"\t", b"\f", b"        "]))
        lines[place:end] = [by + each for each in lines[place:end]]
    elif kind == "dedent":
        by_how_many = draw(st.integers(1, 8))
        lines[place:end] = [each[min(by_how_many, len(each) - len(each.lstrip(b" "))) :] for each in lines[place:end]]
    elif kind == "line":
        lines.insert(place, indent + fragment + (ending or b"\n"))
    elif kind == "head":
        lines[place] = indent + fragment + draw(st.sampled_from([b"", b" ", b"; ", b"\n" + indent])) + text + ending
    elif kind == "tail":
        lines[place] = body + draw(st.sampled_from([b"", b" ", b"; ", b"  # ", b" \\\n"])) + fragment + ending
    elif kind == "inside":
        at = draw(st.integers(0, len(body)))
        lines[place] = body[:at] + fragment + body[at:] + ending
    elif kind == "bytes":
        at = draw(st.integers(0, len(body)))
        lines[place] = (
            body[:at] + draw(st.binary(min_size=1, max_size=4)) + body[at + draw(st.integers(0, 3)) :] + ending
        )
    elif kind == "quotes":
        old, new = draw(st.permutations([b'"', b"'", b'"""', b"'''", b"`"]))[:2]
        lines[place:end] = [each.replace(old, new) for each in lines[place:end]]
    elif kind == "endings":
        new_ending = draw(st.sampled_from([b"\r\n", b"\r", b"\n", b"\n\n", b" \n", b"\f\n", b"\\\n", b"", b"\n\r"]))
        chosen = range(len(lines)) if draw(st.booleans()) else range(place, end)
        for number in chosen:
            lines[number] = lines[number].rstrip(b"\r\n") + new_ending
    elif kind == "truncate":
        cut = draw(st.integers(0, len(source)))
        return source[:cut] if draw(st.booleans()) else source[cut:]
    elif kind == "block":
        head = draw(
            st.sampled_from([b"if x:", b"try:", b"with a:", b"for i in y:", b"def g():", b"class C:", b"else:"])
        )
        lines[place:end] = [indent + head + b"\n", *(b"    " + each for each in lines[place:end])]
    elif kind == "deep":
        before, core, after = (part.encode() for part in draw(st.sampled_from(DEEP)))
        levels = draw(st.sampled_from([5, 60, 99, 100, 101, 150, 1_000, 20_000]))
        lines.insert(place, indent + before * levels + core + after * levels + b"\n")
    elif kind == "comment":
        lines.insert(place, draw(st.sampled_from([b"", indent, indent + b"  ", indent[:-2]])) + b"# a comment\n")
    elif kind == "blank":
        lines.insert(place, draw(st.sampled_from([b"\n", b"    \n", b"\r\n", b"\t\n", b"\x0c\n", b"\r"])))
    elif kind == "string":
        lines[place] = body.replace(b"hidden_size,", b'"""a\n  b""",').replace(b"=h,", b"='a\\\n  b',") + ending
    elif kind == "tabs":
        return source.replace(b"    ", draw(st.sampled_from([b"\t", b" ", b"  ", b"        "])))
    elif kind == "start":
        return (
            draw(st.sampled_from([b"\xef\xbb\xbf", b"# coding: latin-1\n", b"#!python\n# coding: cp1252\n", b"\0"]))
            + source
        )
    elif kind == "end":
        return source.rstrip() + draw(
            st.sampled_from([b"", b"\n\n\n", b"\n  \n", b"\n\x0c", b"\\", b"\n#", b"\n\t", b";"])
        )
    return b"".join(lines)


KINDS = (
    *("delete", "duplicate", "swap", "move", "indent", "dedent", "line", "head", "tail", "inside", "bytes", "quotes"),
    *("endings", "truncate", "block", "deep", "comment", "blank", "string", "tabs", "start", "end"),
)  # fmt: skip


@st.composite
def sources(draw: st.DrawFn, subject: Subject) -> tuple[str, bytes]:
    """A release, and its file after some mutations."""
    release = draw(st.sampled_from(subject.releases))
    source = released(release, subject.file)
    for _ in range(draw(st.integers(1, 4))):
        source = draw(mutated(source, subject.target))
    return release, source


@pytest.mark.parametrize("patch_id", SUBJECTS)
def test_a_mutated_file_is_refused_or_only_the_named_statements_change(patch_id: str) -> None:
    seen = {True: 0, False: 0}

    @bounded
    @given(sources(SUBJECTS[patch_id]))
    def check_one(drawn: tuple[str, bytes]) -> None:
        release, source = drawn
        is_patched = check(source, codemod_of(release, patch_id))
        seen[is_patched] += 1
        event("patched" if is_patched else "refused")

    check_one()
    assert min(seen.values()) > 5, f"too few inputs are patched or refused: {seen}"
    print(f"{patch_id}: {seen[True]} patched, {seen[False]} refused")


FILES_OF_PATCHES = {"nbeatsx-unused-out": NBEATSX, "tft-static-encoder": TFT}


@pytest.mark.parametrize("patch_id", FILES_OF_PATCHES)
@pytest.mark.parametrize("other", [NBEATSX, TFT])
def test_two_files_in_one_are_refused_or_only_the_named_statements_change(patch_id: str, other: str) -> None:
    file = FILES_OF_PATCHES[patch_id]
    for glue in (b"", b"\r\n", b";"):
        was_patched = check(released("1.6.4", other) + glue + released("1.7.4", file), codemod_of("1.7.4", patch_id))
        assert was_patched == (file != other and glue != b";")


@pytest.mark.parametrize("patch_id", SUBJECTS)
def test_released_files_pass_the_check_of_mutated_files(patch_id: str) -> None:
    (patch,) = load_catalog().select([patch_id])
    claimed = [release for release in SUBJECTS[patch_id].releases if load_catalog().files_of(patch, release)]
    assert claimed
    for release in claimed:
        assert check(released(release, SUBJECTS[patch_id].file), codemod_of(release, patch_id))


@pytest.mark.parametrize("levels", [201, 1_000, 20_000])
@pytest.mark.parametrize(("before", "core", "after"), DEEP)
def test_deeply_nested_source_is_refused(before: str, core: str, after: str, levels: int) -> None:
    with pytest.raises(CodemodRefused):
        check_parses(f"{before * levels}{core}{after * levels}\n".encode())


def test_a_process_survives_a_deeply_nested_file(site: Path) -> None:
    for deep in ("(" * 50_000 + ")" * 50_000, "a and " * 50_000 + "b", "x" + ".y" * 50_000):
        (site / TFT).write_bytes(released("1.7.4", TFT) + deep.encode() + b"\n")
        before = snapshot(site)
        refused = run_nfpatch("apply", "--allow-modified", "--site-packages", site)
        assert (refused.returncode, refused.stdout) == (3, ""), refused
        assert len(refused.stderr.splitlines()) == 1
        assert TFT in refused.stderr
        assert snapshot(site) == before


def test_invalid_escapes_in_a_file_cause_no_warning(site: Path) -> None:
    with (site / TFT).open("a") as file:
        file.write("\n\nPATTERN = '\\d static_encoder \\o'\n")
    command = [sys.executable, "-W", "always::SyntaxWarning", "-W", "always::DeprecationWarning", "-m", "nfpatch"]
    arguments = ["apply", "--allow-modified", "--site-packages", str(site)]
    applied = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert (applied.returncode, applied.stderr) == (0, "")
