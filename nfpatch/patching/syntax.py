"""Questions to a LibCST tree: where a function is, what a statement means, who uses an attribute.

The last is asked of Python's own tree of the same text, which is made and walked in a fraction of the time
(`benchmarks/` holds `apply` to a ratio of the import of LibCST).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional, Union

import libcst as cst

from nfpatch.codemod import CodemodRefused

MAX_NESTING = 100

EMPTY = cst.Module(body=())

Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]
Definition = Union[cst.ClassDef, cst.FunctionDef]


# Many more than the versions of one file that several codemods make.
_FEW = 16


@dataclass(frozen=True)
class Use:
    """A mention of an attribute: in which line, from 1, and under which conditions.

    `under` are the tests of the `if` statements around it, each with whether it stands in their body or in their
    `else`. `is_assignment` tells a plain `self.attribute = ...` from all others.
    """

    line: int
    is_assignment: bool
    under: tuple[tuple[ast.expr, bool], ...]


def parse(source: bytes) -> cst.Module:
    """The tree of this source. Raises CodemodRefused if it does not parse or does not render to the same bytes."""
    _check_nesting(source)
    try:
        module = cst.parse_module(source)
        reproduced = text_of(module)
    except cst.ParserSyntaxError as error:
        raise CodemodRefused(f"it does not parse: {error.message} in line {error.raw_line}") from error
    except (UnicodeError, SyntaxError, LookupError, ValueError) as error:
        raise CodemodRefused(f"its text cannot be decoded: {error}") from error
    except RecursionError as error:
        raise CodemodRefused("it is nested too deeply to be parsed") from error
    if reproduced != source:
        raise CodemodRefused("LibCST cannot reproduce it byte for byte")
    return module


@lru_cache(maxsize=_FEW)
def text_of(module: cst.Module) -> bytes:
    """The source that the tree stands for."""
    return module.bytes


@lru_cache(maxsize=_FEW)
def _python_tree(source: bytes) -> ast.Module:
    """What Python itself makes of a source. Raises CodemodRefused where it does not parse."""
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


def _check_nesting(source: bytes) -> None:
    """Raise CodemodRefused unless the source parses and is nested as no person nests it.

    LibCST's parser takes a stack frame for each level, and where the stack ends, so does the process, without a word.
    Python's own knows its limits, so it goes first.
    """
    level: list[ast.AST] = [_python_tree(source)]
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


def find_definition(module: cst.Module, where: str) -> tuple[Definition, ...]:
    """The class at the top of the module, and the function or class in it, and so on, that the dotted name leads to.

    Raises CodemodRefused where a name is not defined exactly once.
    """
    path: list[Definition] = []
    for name in where.split("."):
        inside = block_of(path[-1]).body if path else module.body
        found = [
            node for node in inside if isinstance(node, (cst.ClassDef, cst.FunctionDef)) and node.name.value == name
        ]
        if len(found) != 1:
            owner = path[-1].name.value if path else "it"
            number = f"{len(found)} times" if found else "nowhere"
            raise CodemodRefused(f"{owner} defines `{name}` {number}, not once")
        path.append(found[0])
    return tuple(path)


def block_of(definition: Definition) -> cst.IndentedBlock:
    """The statements of a function or class. Raises CodemodRefused where they stand on its first line."""
    if not isinstance(definition.body, cst.IndentedBlock):
        raise CodemodRefused(f"`{definition.name.value}` is defined on one line")
    return definition.body


def meaning_of(statement: cst.CSTNode) -> Optional[str]:
    """What the statement means, whatever its spaces, line breaks and comments; None where Python cannot tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(EMPTY.code_for_node(statement)))
    except SyntaxError:  # newer syntax than this interpreter's, so nothing that a patch speaks of
        return None


@lru_cache(maxsize=_FEW)
def uses_in(source: bytes) -> Mapping[str, Sequence[Use]]:
    """Every use of every attribute in the source, be it in a string that spells it (`getattr`, a key of a state dict).

    Raises CodemodRefused where the source does not parse.
    """
    collector = _UseCollector()
    collector.visit(_python_tree(source))
    return collector.found


class _UseCollector(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: dict[str, list[Use]] = {}
        self._under: tuple[tuple[ast.expr, bool], ...] = ()

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        outside = self._under
        for branch, statements in ((True, node.body), (False, node.orelse)):
            self._under = (*outside, (node.test, branch))
            for statement in statements:
                self.visit(statement)
        self._under = outside

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                self._note(target.attr, target.lineno, is_assignment=True)
            else:
                self.visit(target)
        self.visit(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._note(node.attr, node.lineno)
        self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            for name in node.value.split("."):
                self._note(name, node.lineno)

    def visit_MatchClass(self, node: Any) -> None:  # Python 3.10
        for name in node.kwd_attrs:
            self._note(name, node.lineno)
        self.generic_visit(node)

    def _note(self, name: str, line: int, is_assignment: bool = False) -> None:
        self.found.setdefault(name, []).append(Use(line, is_assignment, self._under))


def check_assigned_once(module: cst.Module, attribute: str) -> None:
    """Raise CodemodRefused unless there is one assignment to the attribute."""
    times = sum(use.is_assignment for use in uses_in(text_of(module)).get(attribute, ()))
    if times != 1:
        raise CodemodRefused(f"`self.{attribute} = ...` stands there {times or 'no'} times, not once")


def check_unread(module: cst.Module, attribute: str, condition: str, source: cst.Module) -> None:
    """Raise CodemodRefused where the module uses the attribute outside `if CONDITION:`, or at all without a condition.

    For `not CONDITION`, a use in the `else` of `if CONDITION:` is one inside as well. The line that the error names is
    that of the `source` which the module was made from.
    """
    inside = {(_dumped(condition), True)} if condition else set()
    if condition.startswith("not "):
        inside.add((_dumped(condition[4:]), False))
    for use in uses_in(text_of(module)).get(attribute, ()):
        if not use.is_assignment and inside.isdisjoint((ast.dump(test), branch) for test, branch in use.under):
            outside = f", outside `if {condition}:`" if condition else ""
            line = _line_before(use.line, text_of(module), text_of(source))
            raise CodemodRefused(f"the attribute `{attribute}` is read in line {line}{outside}")


def _dumped(expression: str) -> str:
    return ast.dump(ast.parse(f"({expression})", mode="eval").body)


def _line_before(line: int, text: bytes, earlier: bytes) -> int:
    """The number, from 1, that this line of a text had in an earlier one; its own if it is new."""
    import difflib

    matcher = difflib.SequenceMatcher(None, text.splitlines(), earlier.splitlines(), autojunk=False)
    for block in matcher.get_matching_blocks():
        if block.a < line <= block.a + block.size:
            return block.b - block.a + line
    return line


def check_ignored(module: cst.Module, where: str, parameter: str) -> None:
    """Raise CodemodRefused where the function of this name uses that parameter of its own."""
    mentions = _NameCollector(parameter)
    block_of(find_definition(module, where)[-1]).visit(mentions)
    if mentions.found:
        raise CodemodRefused(f"`{where}` uses its `{parameter}` in line {_line_of(mentions.found[0], module)}")


class _NameCollector(cst.CSTVisitor):
    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[cst.CSTNode] = []

    def visit_Name(self, node: cst.Name) -> None:
        if node.value == self.name:
            self.found.append(node)


def _line_of(node: cst.CSTNode, module: cst.Module) -> int:
    """Line number, from 1, of a node of this module."""
    from libcst.metadata import MetadataWrapper, PositionProvider

    return MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)[node].start.line
