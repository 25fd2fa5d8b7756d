"""The codemods on generated input: a refusal, or a result that parses and differs by the named statement alone.

The inputs are the real model files of many releases, mutilated. What a result may be is computed from the source with
`ast`, not with LibCST, and its lines are held against those of the source byte for byte.

`HYPOTHESIS_EXAMPLES=20000 pytest tests/test_codemod_fuzz.py` looks further than CI does, each time elsewhere.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tokenize
import warnings
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
from nfpatch.codemod import Codemod, CodemodRefused, GuardLayer, RemoveUnreadLayer, check_parses, rewrite

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
bounded = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
RELEASES = {
    NBEATSX: ("1.1.0", "1.2.0", "1.4.0", "1.6.4", "1.7.4", "1.7.5", "1.7.6"),
    TFT: ("1.0.0", "1.1.0", "1.4.0", "1.7.2", "1.7.3", "1.7.4", "1.7.5"),
}
TARGET = {NBEATSX: b"self.out = ", TFT: b"self.static_encoder = "}


@cache
def released(release: str, file: str) -> bytes:
    source = read_member(release, file)
    assert source is not None
    return source


@cache
def codemod_of(release: str, file: str) -> Codemod:
    """The codemod for this release; where none claims it, the newest one there is."""
    (patch,) = load_catalog().patches_of(file)
    codemod = patch.codemod_for(release) or patch.codemod_for("1.7.4")
    assert codemod is not None
    return codemod


def patched(source: bytes, codemod: Codemod) -> Optional[bytes]:
    """What `apply --allow-modified` would write; None for a refusal. Any other exception is the test's failure."""
    try:
        result = rewrite(source, {"the-patch": codemod})
        check_parses(result)
    except CodemodRefused:
        return None
    return result


# --- what a result may be


Block = Union[ast.ClassDef, ast.FunctionDef]


@dataclass(frozen=True)
class Named:
    """The statement that a patch names: its place among those of the constructor, its first and last line from 0."""

    index: int
    first: int
    last: int


def tree_of(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def constructor_of(tree: ast.Module, class_name: str) -> ast.FunctionDef:
    (class_,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    (function,) = (node for node in class_.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return function


def is_same(node: Optional[ast.AST], text: str) -> bool:
    return node is not None and ast.unparse(node) == text


def is_built(statement: ast.stmt, attribute: str) -> bool:
    return isinstance(statement, ast.Assign) and [*map(ast.unparse, statement.targets)] == [f"self.{attribute}"]


def is_named(statement: ast.stmt, codemod: Codemod) -> bool:
    if isinstance(codemod, RemoveUnreadLayer):
        return (
            isinstance(statement, ast.If)
            and is_same(statement.test, codemod.condition)
            and not statement.orelse
            and len(statement.body) == 1
            and is_built(statement.body[0], codemod.attribute)
        )
    assert isinstance(codemod, GuardLayer)
    return (
        isinstance(statement, ast.Assign)
        and is_built(statement, codemod.attribute)
        and isinstance(statement.value, ast.Call)
        and is_same(statement.value.func, codemod.factory)
        and any(
            word.arg == codemod.size_argument and is_same(word.value, codemod.size) for word in statement.value.keywords
        )
    )


def named_statement(tree: ast.Module, codemod: Codemod) -> Named:
    """The one statement of the source that the codemod may touch; the test fails where there is not exactly one."""
    assert isinstance(codemod, (RemoveUnreadLayer, GuardLayer))
    body = constructor_of(tree, codemod.class_name).body
    ((index, statement),) = ((i, node) for i, node in enumerate(body) if is_named(node, codemod))
    assert statement.end_lineno is not None
    return Named(index, statement.lineno - 1, statement.end_lineno - 1)


def with_remedy(tree: ast.Module, codemod: Codemod, named: Named) -> ast.Module:
    """The tree as the patch shall leave it; it is changed in place."""
    assert isinstance(codemod, (RemoveUnreadLayer, GuardLayer))
    body = constructor_of(tree, codemod.class_name).body
    if isinstance(codemod, RemoveUnreadLayer):
        del body[named.index]
    else:
        test = ast.parse(f"{codemod.size} > 0", mode="eval").body
        body[named.index] = ast.If(test=test, body=[body[named.index]], orelse=[])
    return tree


def readers(tree: ast.Module, codemod: Codemod) -> list[str]:
    """What else in the module speaks of the attribute, where the layer may be gone."""
    assert isinstance(codemod, (RemoveUnreadLayer, GuardLayer))
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(codemod, GuardLayer) and is_same(node.test, codemod.read_under):
            for other in (node.test, *node.orelse):
                visit(other)
            return
        if (isinstance(node, ast.Attribute) and node.attr == codemod.attribute) or (
            isinstance(node, ast.Constant) and node.value == codemod.attribute
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


def check_lines(source: bytes, result: bytes, codemod: Codemod, named: Named) -> None:
    """Nothing but the statement, its comment and the blank lines beside it has changed, byte for byte."""
    before, after = lines_of(source), lines_of(result)
    if isinstance(codemod, GuardLayer):
        assert after[: named.first] == before[: named.first]
        assert after[named.last + 2 :] == before[named.last + 1 :]
        statement, guarded = before[named.first : named.last + 1], after[named.first : named.last + 2]
        first = statement[0]
        indent = first[: len(first) - len(first.lstrip(b" \t\x0c"))]
        ending = first[len(first.rstrip(b"\r\n")) :]
        assert guarded[0].rstrip(b"\r\n") == indent + f"if {codemod.size} > 0:".encode()
        if ending:
            assert guarded[0].endswith(ending)
        for old, new in zip(statement, guarded[1:]):
            assert new.endswith(old), "a line moves to the right, and that is all"
            assert new[: len(new) - len(old)].strip(b" \t") == b""
        return
    # what is left above and below the statement is what was there, less its own comment and doubled blank lines
    start, end = named.first, named.last + 1
    while start and is_blank_or_comment(before[start - 1]):
        start -= 1
    if 0 < start < named.first and before[start - 1].rstrip().endswith(b"\\"):
        start += 1  # a comment on a line that continues the one above belongs there
    while end < len(before) and is_blank_or_comment(before[end]):
        end += 1
    rest = len(before) - end
    assert after[:start] == before[:start]
    assert after[len(after) - rest :] == before[end:]
    above, below, between = before[start : named.first], before[named.last + 1 : end], after[start : len(after) - rest]
    own = len(above)
    while own and above[own - 1].strip():
        own -= 1
    kept = [line for line in between if line.strip()]
    assert kept == [line for line in (*above[:own], *below) if line.strip()], "every other comment stays"
    remaining = iter((*above[:own], *below))
    assert all(line in remaining for line in between), "no line is new"


def check(source: bytes, codemod: Codemod) -> bool:
    """Hold the patched source against what it may be; whether there was any."""
    result = patched(source, codemod)
    if result is None:
        return False
    tree = tree_of(source)
    named = named_statement(tree, codemod)
    check_lines(source, result, codemod, named)
    built = f"self.{codemod.attribute}"  # type: ignore[attr-defined]
    assert readers(tree, codemod) == [built]
    assert ast.dump(with_remedy(tree, codemod, named)) == ast.dump(tree_of(result))
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
    """The number of a line, as often as not one near the statement in question."""
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
        lines.insert(place, draw(st.sampled_from([b"", indent, indent + b"  ", indent[:-2]])) + b"# somebody's words\n")
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
def sources(draw: st.DrawFn, file: str) -> tuple[str, bytes]:
    """A release, and its file after some mutations."""
    release = draw(st.sampled_from(RELEASES[file]))
    source = released(release, file)
    for _ in range(draw(st.integers(1, 4))):
        source = draw(mutated(source, TARGET[file]))
    return release, source


@pytest.mark.parametrize("file", [NBEATSX, TFT])
def test_a_mutilated_file_is_refused_or_patched_by_the_named_statement_alone(file: str) -> None:
    seen = {True: 0, False: 0}

    @bounded
    @given(sources(file))
    def holds(drawn: tuple[str, bytes]) -> None:
        release, source = drawn
        is_patched = check(source, codemod_of(release, file))
        seen[is_patched] += 1
        event("patched" if is_patched else "refused")

    holds()
    assert min(seen.values()) > 5, f"the input is too tame or too wild: {seen}"
    print(f"{file}: {seen[True]} patched, {seen[False]} refused")


@pytest.mark.parametrize("file", [NBEATSX, TFT])
@pytest.mark.parametrize("other", [NBEATSX, TFT])
def test_two_files_in_one_are_refused_or_patched_by_the_named_statement_alone(file: str, other: str) -> None:
    for glue in (b"", b"\r\n", b";"):
        was_patched = check(released("1.6.4", other) + glue + released("1.7.4", file), codemod_of("1.7.4", file))
        assert was_patched == (file != other and glue != b";")


@pytest.mark.parametrize("file", [NBEATSX, TFT])
@pytest.mark.parametrize("release", ["1.2.0", "1.4.0", "1.7.2", "1.7.4"])
def test_the_released_file_passes_the_judgement_that_the_mutilated_ones_face(file: str, release: str) -> None:
    assert check(released(release, file), codemod_of(release, file))


@pytest.mark.parametrize("levels", [201, 1_000, 20_000])
@pytest.mark.parametrize(("before", "core", "after"), DEEP)
def test_what_is_nested_beyond_reason_is_refused(before: str, core: str, after: str, levels: int) -> None:
    with pytest.raises(CodemodRefused):
        check_parses(f"{before * levels}{core}{after * levels}\n".encode())


def test_a_process_survives_a_file_that_is_nested_beyond_reason(site: Path) -> None:
    for deep in ("(" * 50_000 + ")" * 50_000, "a and " * 50_000 + "b", "x" + ".y" * 50_000):
        (site / TFT).write_bytes(released("1.7.4", TFT) + deep.encode() + b"\n")
        before = snapshot(site)
        refused = run_nfpatch("apply", "--allow-modified", "--site-packages", site)
        assert (refused.returncode, refused.stdout) == (3, ""), refused
        assert len(refused.stderr.splitlines()) == 1
        assert str(site / TFT) in refused.stderr
        assert snapshot(site) == before


def test_what_a_file_says_in_odd_strings_is_no_warning_of_nfpatchs(site: Path) -> None:
    with (site / TFT).open("a") as file:
        file.write("\n\nPATTERN = '\\d static_encoder \\o'\n")
    command = [sys.executable, "-W", "always::SyntaxWarning", "-W", "always::DeprecationWarning", "-m", "nfpatch"]
    arguments = ["apply", "--allow-modified", "--site-packages", str(site)]
    applied = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert (applied.returncode, applied.stderr) == (0, "")
