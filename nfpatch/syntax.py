"""Questions to a LibCST tree: where a function is, what a statement means, who uses an attribute.

Plain visitors rather than `libcst.matchers`: importing the matchers costs as much as LibCST itself
(`benchmarks/` holds `apply` to a ratio of that import).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Optional, Union

import libcst as cst

from nfpatch.codemod import CodemodRefused

MAX_NESTING = 100

EMPTY = cst.Module(body=())

Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]
Definition = Union[cst.ClassDef, cst.FunctionDef]


@dataclass(frozen=True)
class Uses:
    """Where a module uses an attribute: the assignments to it, and every other mention."""

    assignments: tuple[cst.Assign, ...]
    others: tuple[cst.CSTNode, ...]


def parse(source: bytes) -> cst.Module:
    """The tree of this source. Raises CodemodRefused if it does not parse or does not render to the same bytes."""
    _check_nesting(source)
    try:
        module = cst.parse_module(source)
        reproduced = module.bytes
    except cst.ParserSyntaxError as error:
        raise CodemodRefused(f"it does not parse: {error.message} in line {error.raw_line}") from error
    except (UnicodeError, SyntaxError, LookupError, ValueError) as error:
        raise CodemodRefused(f"its text cannot be decoded: {error}") from error
    except RecursionError as error:
        raise CodemodRefused("it is nested too deeply to be parsed") from error
    if reproduced != source:
        raise CodemodRefused("LibCST cannot reproduce it byte for byte")
    return module


def _check_nesting(source: bytes) -> None:
    """Raise CodemodRefused unless the source parses and is nested as no person nests it.

    LibCST's parser takes a stack frame for each level, and where the stack ends, so does the process, without a word.
    Python's own knows its limits, so it goes first.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the source says amiss is not for the user of nfpatch
            tree = ast.parse(source)
    except SyntaxError as error:
        raise CodemodRefused(f"it does not parse: {error.msg} in line {error.lineno or 1}") from error
    except (RecursionError, MemoryError) as error:
        raise CodemodRefused("it is nested too deeply to be parsed") from error
    except (UnicodeError, LookupError, ValueError) as error:  # ValueError: a NUL byte
        raise CodemodRefused(f"its text cannot be decoded: {error}") from error
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


def find_uses(module: cst.Module, attribute: str, allowed_under: Optional[str] = None) -> Uses:
    """Every use of `.attribute` in the module, be it a string that spells it (`getattr`, a key of `state_dict()`).

    A use inside the body of `if ALLOWED_UNDER:` does not count; for `not CONDITION`, nor does one in the `else` of
    `if CONDITION:`.
    """
    collector = _UseCollector(attribute, allowed_under)
    word = re.compile(rf"\b{re.escape(attribute)}\b")
    try:
        for part in _parts(module.body):
            if word.search(_text_of_part(part)):
                part.visit(collector)
    except RecursionError as error:
        raise CodemodRefused("it is nested too deeply to be read") from error
    return Uses(tuple(collector.assignments), tuple(collector.others))


@lru_cache(maxsize=2000)  # many more than a module has; several codemods look at the same ones
def _text_of_part(part: cst.CSTNode) -> str:
    """The code of a node, which is much faster to search than the node is to visit."""
    return EMPTY.code_for_node(part)


def _parts(statements: Sequence[cst.CSTNode]) -> Iterator[cst.CSTNode]:
    """The statements, those of classes one by one, and what stands in the heads of the classes."""
    for statement in statements:
        if isinstance(statement, cst.ClassDef):
            yield from (*statement.decorators, *statement.bases, *statement.keywords)
            yield from _parts(statement.body.body)
        else:
            yield statement


class _UseCollector(cst.CSTVisitor):
    def __init__(self, attribute: str, allowed_under: Optional[str]) -> None:
        self.attribute = attribute
        self.allowed_under = allowed_under
        self.opposite = allowed_under[4:] if allowed_under is not None and allowed_under.startswith("not ") else None
        self.assignments: list[cst.Assign] = []
        self.others: list[cst.CSTNode] = []
        self._targets: list[cst.CSTNode] = []
        self._allowed_depth = 0

    def visit_If_body(self, node: cst.If) -> None:
        self._allowed_depth += _is_test_of(node, self.allowed_under)

    def leave_If_body(self, node: cst.If) -> None:
        self._allowed_depth -= _is_test_of(node, self.allowed_under)

    def visit_If_orelse(self, node: cst.If) -> None:
        self._allowed_depth += _is_test_of(node, self.opposite)

    def leave_If_orelse(self, node: cst.If) -> None:
        self._allowed_depth -= _is_test_of(node, self.opposite)

    def visit_Assign(self, node: cst.Assign) -> None:
        targets = [target.target for target in node.targets if self._is_on_self(target.target)]
        if targets:
            self.assignments.append(node)
            self._targets.extend(targets)

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if node.attr.value == self.attribute and not any(node is target for target in self._targets):
            self._note(node)

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        if self.attribute in node.value and self.attribute in _text_of(node).split("."):
            self._note(node)

    def visit_MatchKeywordElement(self, node: cst.MatchKeywordElement) -> None:
        if node.key.value == self.attribute:
            self._note(node)

    def _is_on_self(self, node: cst.CSTNode) -> bool:
        return (
            isinstance(node, cst.Attribute)
            and node.attr.value == self.attribute
            and isinstance(node.value, cst.Name)
            and node.value.value == "self"
        )

    def _note(self, node: cst.CSTNode) -> None:
        if not self._allowed_depth:
            self.others.append(node)


def _is_test_of(node: cst.If, condition: Optional[str]) -> bool:
    return condition is not None and is_expression(node.test, condition)


def _text_of(string: cst.SimpleString) -> str:
    """What the string says; the empty text for bytes, which name no attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        value = string.evaluated_value
    return value if isinstance(value, str) else ""


def check_assigned_once(module: cst.Module, attribute: str) -> None:
    """Raise CodemodRefused unless there is one assignment to the attribute."""
    assignments = find_uses(module, attribute).assignments
    if len(assignments) != 1:
        raise CodemodRefused(f"`self.{attribute} = ...` stands there {len(assignments) or 'no'} times, not once")


def check_unread(module: cst.Module, attribute: str, condition: str, source: cst.Module) -> None:
    """Raise CodemodRefused where the module uses the attribute outside `if CONDITION:`, or at all without a condition.

    The line that the error names is that of the `source` which the module was made from.
    """
    others = find_uses(module, attribute, allowed_under=condition or None).others
    if others:
        outside = f", outside `if {condition}:`" if condition else ""
        raise CodemodRefused(f"the attribute `{attribute}` is read in line {_line_of(others[0], source)}{outside}")


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


def is_expression(node: cst.BaseExpression, text: str) -> bool:
    """Whether the node means the same as `text`, whatever its spaces, line breaks and parentheses."""
    code = EMPTY.code_for_node(node)
    try:
        return ast.dump(ast.parse(f"({code})", mode="eval")) == ast.dump(ast.parse(f"({text})", mode="eval"))
    except SyntaxError:  # newer syntax than this interpreter's, so not one of the plain conditions asked for
        return False
