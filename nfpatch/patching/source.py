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
    """A definition, or a block of statements in it, and the lines around it.

    `node` is the definition, `body` the statements in question. `indent` is the indentation of the line that begins the
    block, "" for a module. `lines` are lines of the file with their ends, the first of them at the byte `start`; the
    tree numbers them from `first_number` on.
    """

    node: Definition
    body: Sequence[ast.stmt]
    indent: str
    lines: tuple[bytes, ...]
    start: int
    first_number: int = 1

    def line(self, number: int) -> bytes:
        """The line that the tree calls by this number."""
        return self.lines[number - self.first_number]

    def offset(self, number: int) -> int:
        """Where in the file this line begins, in bytes; the number after the last line stands for its end."""
        return self.start + sum(map(len, self.lines[: number - self.first_number]))


class SourceFile:
    """A module as it lies on the disk."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._found_by_text: dict[tuple[str, str], CodeBlock] = {}

    @cached_property
    def encoding(self) -> str:
        """The name of its encoding (PEP 263). Raises CodemodRefused where there is no such."""
        if self.content.startswith(codecs.BOM_UTF8):
            return "utf-8"
        for line in self.content.split(b"\n", 2)[:2]:
            found = _CODING.match(line)
            if found is not None:
                name = found.group(1).decode("ascii")
                try:
                    return codecs.lookup(name).name
                except LookupError as error:
                    raise CodemodRefused(f"its text cannot be decoded: {error}") from error
            if _BLANK_OR_COMMENT.fullmatch(line) is None:
                break
        return "utf-8"

    @cached_property
    def tree(self) -> ast.Module:
        """What Python makes of it. Raises CodemodRefused where it does not parse, or is nested too deeply."""
        tree = _parsed(self.content)
        try:
            self.content.decode(self.encoding)  # Python overlooks what is amiss in a comment
        except UnicodeDecodeError as error:
            raise CodemodRefused(f"its text cannot be decoded: {error}") from error
        _check_nesting(tree)
        return tree

    def definition(self, where: str) -> CodeBlock:
        """The function or class that the dotted name leads to; the module itself for the empty name.

        Raises CodemodRefused where a name is not defined exactly once.
        """
        node: Definition = self.tree
        for name in where.split(".") if where else ():
            found = [each for each in node.body if isinstance(each, (ast.ClassDef, ast.FunctionDef))]
            found = [each for each in found if each.name == name]
            if len(found) != 1:
                owner = "it" if isinstance(node, ast.Module) else node.name
                number = f"{len(found)} times" if found else "nowhere"
                raise CodemodRefused(f"{owner} defines `{name}` {number}, not once")
            node = found[0]
        lines = tuple(_LINE.findall(self.content))
        indent = "" if isinstance(node, ast.Module) else indentation_of(lines[node.lineno - 1])
        return CodeBlock(node, node.body, indent, lines, 0)

    def definition_by_text(self, where: str, only: str = "") -> CodeBlock:
        """The same where one line of the text begins it, and it parses by itself; else as `definition` finds it.

        With `only`, the name of a function in it, nothing else of it is read, and its body is that function.
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
            # an `if` around it takes the indentation, whatever that is
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
        """Where the first import begins that is not from `__future__`, in bytes, and the end of its line.

        Raises CodemodRefused where the module imports nothing else.
        """
        for statement in self.tree.body:
            is_import = isinstance(statement, (ast.Import, ast.ImportFrom))
            if is_import and getattr(statement, "module", None) != "__future__":
                lines = _LINE.findall(self.content)
                line = lines[statement.lineno - 1]
                return sum(map(len, lines[: statement.lineno - 1])), _ending_of(line)
        raise CodemodRefused("it imports nothing, so that there is no place for another import")

    def first_import_by_text(self) -> tuple[int, bytes]:
        """The same by the first line that looks like it, without parsing the module."""
        found = _IMPORT.search(self.content)
        return self.first_import() if found is None else (found.start(), _ending_of(found.group()))

    def _begun_once(self, name: str, start: int, stop: int, indent: int) -> Optional[tuple[int, int]]:
        """Where the one line begins that defines the name, and how far it is indented, which must be deeper.

        None where there is no such line or more than one. `find` and not a pattern, as it is many times as fast.
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
                break  # a class, or else a function: to look for both takes twice as long in a long file
        is_deeper = len(found) == 1 and (found[0][1] > indent if indent >= 0 else found[0][1] == 0)
        return found[0] if is_deeper else None

    def _end_of_block(self, start: int, stop: int, indent: int) -> int:
        """Where the next statement begins that is indented no deeper, or what looks like one inside of a string."""
        statement = re.compile(rb"^[ \t]{0,%d}[^\s#)\]}]" % indent, re.MULTILINE)
        found = statement.search(self.content, self.content.find(b"\n", start) + 1, stop)
        return stop if found is None else found.start()


def _ending_of(line: bytes) -> bytes:
    """The end of this line; that of a Unix line where the file ends with it."""
    return line[len(line.rstrip(b"\r\n")) :] or b"\n"


def indentation_of(line: bytes) -> str:
    """What stands before the first word of a line."""
    return line[: len(line) - len(line.lstrip(b" \t\f"))].decode("ascii")


def parsed_statements(text: str) -> list[ast.stmt]:
    """The statements of a text of a patch. Raises CodemodRefused where it does not parse."""
    return _parsed(text).body


def is_same(one: object, other: object, but: tuple[str, ...] = ()) -> bool:
    """Whether two trees are the same, but for these fields; as `ast.dump` tells, which is not asked as it is slow."""
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
            warnings.simplefilter("ignore")  # what the source says amiss is not for the user of nfpatch
            return ast.parse(source)
    except SyntaxError as error:
        raise CodemodRefused(f"it does not parse: {error.msg} in line {error.lineno or 1}") from error
    except (RecursionError, MemoryError) as error:
        raise CodemodRefused("it is nested too deeply to be parsed") from error
    except (UnicodeError, LookupError, ValueError) as error:  # ValueError: a NUL byte
        raise CodemodRefused(f"its text cannot be decoded: {error}") from error


def _check_nesting(tree: ast.Module) -> None:
    """Raise CodemodRefused where the source is nested as no person nests it.

    LibCST's parser takes a stack frame for each level, and where the stack ends, so does the process, without a word.
    Python's own knows its limits, so it goes first.
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
    """How many levels LibCST makes of what is flat for Python."""
    if isinstance(node, ast.BoolOp):
        return len(node.values)
    name = node.name if isinstance(node, ast.alias) else node.module if isinstance(node, ast.ImportFrom) else None
    return name.count(".") if name else 0
