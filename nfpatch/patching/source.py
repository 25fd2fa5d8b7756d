"""The source of a module: its lines, its syntax tree, and the definitions in it.

There are two ways to find a definition. `SourceFile.definition` parses the whole file, which is always right.
`SourceFile.definition_by_text` searches for the line that begins it and parses only that definition. Its cost depends
on the length of the function, not of the file; it is used if a fingerprint verifies the result.
"""

from __future__ import annotations

import ast
import codecs
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Optional, Union

from nfpatch.codemod import CodemodRefused

MAX_NESTING = 100

Definition = Union[ast.Module, ast.ClassDef, ast.FunctionDef]

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
_IMPORT = re.compile(rb"^(?:import|from)[ \t]+(?!__future__)[^\r\n]*(?:\r\n|\r|\n)?", re.MULTILINE)
_BLANK_OR_COMMENT = re.compile(rb"[ \t\f]*(?:#[^\r\n]*)?(?:\r\n|\r|\n)?")


@dataclass(frozen=True)
class CodeBlock:
    """A definition, or a block of statements in it, with its lines.

    `node` is the definition, `body` has the statements of the block. `indent` is the indentation of the line that
    begins the block, "" for a module. `lines` are lines of the file with their endings; the first of them is at the
    byte `start` and has the number `first_number` in the tree.
    """

    node: Definition
    body: Sequence[ast.stmt]
    indent: str
    lines: tuple[bytes, ...]
    start: int
    first_number: int = 1

    def line(self, number: int) -> bytes:
        """The line with this number in the tree."""
        return self.lines[number - self.first_number]

    def offset(self, number: int) -> int:
        """The byte offset in the file of this line; that of the end for the number after the last line."""
        return self.start + sum(map(len, self.lines[: number - self.first_number]))


class SourceFile:
    """The content of a Python file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._found_by_text: dict[tuple[str, str], CodeBlock] = {}

    @cached_property
    def encoding(self) -> str:
        """The name of its encoding (PEP 263). Raises CodemodRefused for an unknown encoding."""
        if self.content.startswith(codecs.BOM_UTF8):
            return "utf-8"
        for line in self.content.split(b"\n", 2)[:2]:
            found = _CODING.match(line)
            if found is not None:
                name = found.group(1).decode("ascii")
                try:
                    return codecs.lookup(name).name
                except LookupError as error:
                    raise CodemodRefused(f"it cannot be decoded: {error}") from error
            if _BLANK_OR_COMMENT.fullmatch(line) is None:
                break
        return "utf-8"

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree. Raises CodemodRefused if it cannot be parsed, or is nested too deeply."""
        tree = _parsed(self.content)
        try:
            self.content.decode(self.encoding)  # the parser ignores invalid bytes in comments
        except UnicodeDecodeError as error:
            raise CodemodRefused(f"it cannot be decoded: {error}") from error
        _check_nesting(tree)
        return tree

    def definition(self, where: str) -> CodeBlock:
        """The function or class with this dotted name; the module itself for the empty name.

        Raises CodemodRefused unless each part of the name is defined exactly once.
        """
        node: Definition = self.tree
        for name in where.split(".") if where else ():
            found = [each for each in node.body if isinstance(each, (ast.ClassDef, ast.FunctionDef))]
            found = [each for each in found if each.name == name]
            if len(found) != 1:
                owner = "it" if isinstance(node, ast.Module) else node.name
                raise CodemodRefused(f"{owner} defines `{name}` {len(found)} times, not once")
            node = found[0]
        lines = tuple(_LINE.findall(self.content))
        indent = "" if isinstance(node, ast.Module) else indentation_of(lines[node.lineno - 1])
        return CodeBlock(node, node.body, indent, lines, 0)

    def definition_by_text(self, where: str, only: str = "") -> CodeBlock:
        """Like `definition`, but found by a text search and parsed alone; falls back to `definition` if that fails.

        If `only` names a function in it, only that function is parsed, and it is the only statement of the body.
        """
        if (where, only) not in self._found_by_text:
            self._found_by_text[where, only] = self._look_for_definition(where, only)
        return self._found_by_text[where, only]

    def _look_for_definition(self, where: str, only: str) -> CodeBlock:
        start, stop, indents = 0, len(self.content), [-1]
        for name in (*where.split("."), *filter(None, [only])):
            begun = self._begun_once(name, start, stop, indents[-1])
            if begun is None:
                return self.definition(where)
            start, indent = begun
            stop = self._end_of_block(start, stop, indent)
            indents.append(indent)
        lines = tuple(_LINE.findall(self.content, start, stop))
        try:
            # an `if` around it accepts any indentation
            text = b"".join(lines).decode(self.encoding)
            (node,) = _parsed(("if 1:\n" if indents[-1] else "\n") + text).body
        except (CodemodRefused, UnicodeDecodeError, ValueError):
            return self.definition(where)
        if isinstance(node, ast.If):
            node = node.body[0]
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name != (only or where.rpartition(".")[2]):
            return self.definition(where)
        if only:
            node = ast.ClassDef(name=where, bases=[], keywords=[], body=[node], decorator_list=[])
        depth = indents[-2] if only else indents[-1]
        return CodeBlock(node, node.body, indentation_of(lines[0])[:depth], lines, start, first_number=2)

    def first_import(self) -> tuple[int, bytes]:
        """The byte offset of the first import that is not from `__future__`, and its line ending.

        Raises CodemodRefused if there is no such import.
        """
        for statement in self.tree.body:
            is_import = isinstance(statement, (ast.Import, ast.ImportFrom))
            if is_import and getattr(statement, "module", None) != "__future__":
                lines = _LINE.findall(self.content)
                line = lines[statement.lineno - 1]
                return sum(map(len, lines[: statement.lineno - 1])), _ending_of(line)
        raise CodemodRefused("it has no imports, so there is no place for another one")

    def first_import_by_text(self) -> tuple[int, bytes]:
        """Like `first_import`, but found by a text search, without parsing the module."""
        found = _IMPORT.search(self.content)
        return self.first_import() if found is None else (found.start(), _ending_of(found.group()))

    def _begun_once(self, name: str, start: int, stop: int, indent: int) -> Optional[tuple[int, int]]:
        """The offset of the only line that defines the name, and its indentation, which must be deeper than `indent`.

        None unless there is exactly one. Uses `find` and not a regex, because it is many times faster.
        """
        found = []
        for keyword in (b"class ", b"def "):
            head = keyword + name.encode("utf-8")
            at = self.content.find(head, start, stop)
            while at >= 0:
                line = self.content.rfind(b"\n", 0, at) + 1
                is_whole_name = self.content[at + len(head) : at + len(head) + 1] in (b"(", b":")
                if is_whole_name and not self.content[line:at].strip(b" \t"):
                    found.append((line, at - line))
                at = self.content.find(head, at + 1, stop)
            if found:
                break  # a class, or else a function: searching for both takes twice as long in a long file
        is_deeper = len(found) == 1 and (found[0][1] > indent if indent >= 0 else found[0][1] == 0)
        return found[0] if is_deeper else None

    def _end_of_block(self, start: int, stop: int, indent: int) -> int:
        """The offset of the next statement that is not indented deeper, or of text in a string that looks like one."""
        statement = re.compile(rb"^[ \t]{0,%d}[^\s#)\]}]" % indent, re.MULTILINE)
        found = statement.search(self.content, self.content.find(b"\n", start) + 1, stop)
        return stop if found is None else found.start()


def _ending_of(line: bytes) -> bytes:
    """The ending of this line; that of Unix if it is the last line and has none."""
    return line[len(line.rstrip(b"\r\n")) :] or b"\n"


def indentation_of(line: bytes) -> str:
    """The whitespace at the beginning of a line."""
    return line[: len(line) - len(line.lstrip(b" \t\f"))].decode("ascii")


def parsed_statements(text: str) -> list[ast.stmt]:
    """The statements in a text of a patch. Raises CodemodRefused if it cannot be parsed."""
    return _parsed(text).body


def is_same(one: object, other: object, but: tuple[str, ...] = ()) -> bool:
    """Whether two trees are equal, except for these fields. Like comparing `ast.dump`, which is slower."""
    if type(one) is not type(other):
        return False
    if isinstance(one, ast.AST):
        return all(is_same(getattr(one, f, None), getattr(other, f, None)) for f in one._fields if f not in but)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return repr(one) == repr(other)


def _parsed(source: Union[bytes, str]) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the source do not concern users of nfpatch
            return ast.parse(source)
    except SyntaxError as error:
        raise CodemodRefused(f"it does not parse: {error.msg} in line {error.lineno or 1}") from error
    except (RecursionError, MemoryError) as error:
        raise CodemodRefused("it is nested too deeply to be parsed") from error
    except (UnicodeError, LookupError, ValueError) as error:  # ValueError: a NUL byte
        raise CodemodRefused(f"it cannot be decoded: {error}") from error


def _check_nesting(tree: ast.Module) -> None:
    """Raise CodemodRefused if the source is nested too deeply.

    LibCST's parser needs a stack frame for each level, and a stack overflow kills the process. Python's own parser has
    a limit, so it is run first.
    """
    level: list[ast.AST] = [tree]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
        if any(_hidden_nesting(node) > MAX_NESTING for node in level):
            break
    raise CodemodRefused("it is nested too deeply to be parsed")


def _hidden_nesting(node: ast.AST) -> int:
    """The number of levels that LibCST needs for a node that is flat in Python's tree."""
    if isinstance(node, ast.BoolOp):
        return len(node.values)
    name = node.name if isinstance(node, ast.alias) else node.module if isinstance(node, ast.ImportFrom) else None
    return name.count(".") if name else 0
