"""Uses of an attribute or a parameter in a module, found in its syntax tree before a patch removes or freezes it."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfpatch.codemod import CodemodRefused
from nfpatch.patching.source import SourceFile


@dataclass(frozen=True)
class Use:
    """A mention of an attribute: its line, from 1, and its conditions.

    `under` has the tests of the `if` statements around it, each with True for its body and False for its `else`.
    `is_assignment` is true for a plain `self.attribute = ...` only.
    """

    line: int
    is_assignment: bool
    under: tuple[tuple[ast.expr, bool], ...]


def uses_in(tree: ast.Module) -> Mapping[str, Sequence[Use]]:
    """All uses of all attributes in a module, including their names in strings (`getattr`, keys of a state dict)."""
    collector = _UseCollector()
    collector.visit(tree)
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
                self._record(target.attr, target.lineno, is_assignment=True)
            else:
                self.visit(target)
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        frozen = _frozen_attribute(node.value)
        if frozen is None:
            self.generic_visit(node)
        else:
            self.visit(frozen.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._record(node.attr, node.lineno)
        self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            for name in node.value.split("."):
                self._record(name, node.lineno)

    def visit_MatchClass(self, node: Any) -> None:  # Python 3.10
        for name in node.kwd_attrs:
            self._record(name, node.lineno)
        self.generic_visit(node)

    def _record(self, name: str, line: int, is_assignment: bool = False) -> None:
        self.found.setdefault(name, []).append(Use(line, is_assignment, self._under))


def _frozen_attribute(statement: ast.expr) -> ast.Attribute | None:
    """The attribute that a statement freezes, `X.attribute.requires_grad_(False)`, which does not count as a use."""
    function = statement.func if isinstance(statement, ast.Call) else None
    attribute = function.value if isinstance(function, ast.Attribute) else None
    if isinstance(attribute, ast.Attribute):
        freezing = ast.unparse(attribute) + ".requires_grad_(False)"
        return attribute if ast.unparse(statement) == freezing else None
    return None


def check_assigned_once(source: SourceFile, attribute: str) -> None:
    """Raise CodemodRefused unless the attribute is assigned exactly once."""
    times = sum(use.is_assignment for use in uses_in(source.tree).get(attribute, ()))
    if times != 1:
        raise CodemodRefused(f"`self.{attribute} = ...` occurs {times} times, not once")


def check_unread(
    result: SourceFile, attribute: str, condition: str, source: SourceFile, quoted: Collection[int] = ()
) -> None:
    """Raise CodemodRefused if the module uses the attribute outside of `if CONDITION:`; anywhere if there is none.

    For `not CONDITION`, the `else` of `if CONDITION:` counts as inside, too. Freezing the attribute is not a use, and
    it may be used in the `quoted` lines of the `source`. The error names the line in `source`, from which `result` was
    made.
    """
    inside = {(_dumped(condition), True)} if condition else set()
    if condition.startswith("not "):
        inside.add((_dumped(condition[4:]), False))
    for use in uses_in(result.tree).get(attribute, ()):
        if not use.is_assignment and inside.isdisjoint((ast.dump(test), branch) for test, branch in use.under):
            line = _line_before(use.line, result.content, source.content)
            if line not in quoted:
                outside = f", outside `if {condition}:`" if condition else ""
                raise CodemodRefused(f"the attribute `{attribute}` is read in line {line or use.line}{outside}")


def _dumped(expression: str) -> str:
    return ast.dump(ast.parse(f"({expression})", mode="eval").body)


def _line_before(line: int, text: bytes, earlier: bytes) -> int:
    """The number, from 1, that this line of a text had in an earlier version; 0 if it is new."""
    import difflib

    matcher = difflib.SequenceMatcher(None, text.splitlines(), earlier.splitlines(), autojunk=False)
    for block in matcher.get_matching_blocks():
        if block.a < line <= block.a + block.size:
            return block.b - block.a + line
    return 0


def check_ignored(function: ast.AST, where: str, parameter: str) -> None:
    """Raise CodemodRefused if this function, named `where`, mentions this parameter of its own."""
    for statement in getattr(function, "body", ()):
        for node in ast.walk(statement):
            if parameter in (getattr(node, name, None) for name in ("id", "attr", "arg")):
                raise CodemodRefused(f"`{where}` uses its `{parameter}` in line {getattr(node, 'lineno', '?')}")
