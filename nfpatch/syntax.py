"""Questions to a LibCST tree, and the two edits that the codemods need.

Plain visitors rather than `libcst.matchers`: importing the matchers costs as much as LibCST itself
(`benchmarks/` holds `apply` to a ratio of that import).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import libcst as cst

from nfpatch.codemod import CodemodRefused

MAX_NESTING = 100

Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]


@dataclass(frozen=True)
class Constructor:
    """An `__init__` and the class around it."""

    class_def: cst.ClassDef
    function: cst.FunctionDef

    @property
    def block(self) -> cst.IndentedBlock:
        """The constructor's own statements."""
        assert isinstance(self.function.body, cst.IndentedBlock)
        return self.function.body


@dataclass(frozen=True)
class Uses:
    """Where a module uses an attribute: the assignments to it, and every other mention."""

    module: cst.Module
    assignments: tuple[cst.Assign, ...]
    others: tuple[cst.CSTNode, ...]

    @property
    def first_other_line(self) -> int:
        """Line number, from 1, of the first mention that is not an assignment."""
        from libcst.metadata import MetadataWrapper, PositionProvider

        wrapper = MetadataWrapper(self.module, unsafe_skip_copy=True)
        return wrapper.resolve(PositionProvider)[self.others[0]].start.line


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


def find_constructor(module: cst.Module, class_name: str) -> Constructor:
    """The `__init__` of the one class of that name at the top of the module. Raises CodemodRefused if there is none."""
    classes = [node for node in module.body if isinstance(node, cst.ClassDef) and node.name.value == class_name]
    if len(classes) != 1:
        raise CodemodRefused(f"it defines {_count(len(classes), 'class', 'classes')} named {class_name}, not one")
    functions = [
        node for node in classes[0].body.body if isinstance(node, cst.FunctionDef) and node.name.value == "__init__"
    ]
    if len(functions) != 1 or not isinstance(functions[0].body, cst.IndentedBlock):
        raise CodemodRefused(f"{class_name} has {_count(len(functions), '`__init__`', '`__init__`s')}, not one")
    return Constructor(classes[0], functions[0])


def find_uses(module: cst.Module, attribute: str, allowed_under: Optional[str] = None) -> Uses:
    """Every use of `.attribute` in the module, be it a string that spells it (`getattr`, a key of `state_dict()`).

    A use inside the body of `if ALLOWED_UNDER:` does not count.
    """
    collector = _UseCollector(attribute, allowed_under)
    word = re.compile(rf"\b{re.escape(attribute)}\b")
    try:
        for part in _parts(module.body):
            if word.search(module.code_for_node(part)):  # rendering is much faster than a visit
                part.visit(collector)
    except RecursionError as error:
        raise CodemodRefused("it is nested too deeply to be read") from error
    return Uses(module, tuple(collector.assignments), tuple(collector.others))


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
        self.assignments: list[cst.Assign] = []
        self.others: list[cst.CSTNode] = []
        self._targets: list[cst.CSTNode] = []
        self._allowed_depth = 0

    def visit_If_body(self, node: cst.If) -> None:
        if self.allowed_under is not None and is_expression(node.test, self.allowed_under):
            self._allowed_depth += 1

    def leave_If_body(self, node: cst.If) -> None:
        if self.allowed_under is not None and is_expression(node.test, self.allowed_under):
            self._allowed_depth -= 1

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


def _text_of(string: cst.SimpleString) -> str:
    """What the string says; the empty text for bytes, which name no attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        value = string.evaluated_value
    return value if isinstance(value, str) else ""


def only_assignment(uses: Uses, attribute: str) -> cst.Assign:
    """The one assignment to the attribute. Raises CodemodRefused if there are more or none."""
    if len(uses.assignments) != 1:
        raise CodemodRefused(
            f"`self.{attribute} = ...` stands there {_count(len(uses.assignments), 'time', 'times')}, not once"
        )
    return uses.assignments[0]


def statement_with(constructor: Constructor, assignment: cst.Assign) -> Optional[Statement]:
    """The statement of the constructor's own block that is the assignment, or an `if` directly around it."""
    for statement in constructor.block.body:
        assert isinstance(statement, (cst.SimpleStatementLine, cst.BaseCompoundStatement))
        inner = statement.body.body if isinstance(statement, cst.If) else [statement]
        if any(is_statement_of(line, assignment) for line in inner):
            return statement
    return None


def is_statement_of(statement: cst.CSTNode, assignment: cst.Assign) -> bool:
    """Whether the line consists of this assignment, to one target, and nothing else."""
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and len(statement.body) == 1
        and statement.body[0] is assignment
        and len(assignment.targets) == 1
    )


def is_if_around(statement: Statement, assignment: cst.Assign, condition: str) -> bool:
    """Whether the statement is `if CONDITION:` without `else`, around nothing but this assignment."""
    return (
        isinstance(statement, cst.If)
        and statement.orelse is None
        and is_expression(statement.test, condition)
        and len(statement.body.body) == 1
        and is_statement_of(statement.body.body[0], assignment)
    )


def is_call_with(node: cst.BaseExpression, function: str, keyword: str, value: str) -> bool:
    """Whether the expression is `FUNCTION(..., KEYWORD=VALUE, ...)`."""
    return (
        isinstance(node, cst.Call)
        and is_expression(node.func, function)
        and any(
            arg.keyword is not None and arg.keyword.value == keyword and is_expression(arg.value, value)
            for arg in node.args
        )
    )


def is_expression(node: cst.BaseExpression, text: str) -> bool:
    """Whether the node means the same as `text`, whatever its spaces, line breaks and parentheses."""
    code = cst.Module(body=()).code_for_node(node)
    try:
        return ast.dump(ast.parse(f"({code})", mode="eval")) == ast.dump(ast.parse(f"({text})", mode="eval"))
    except SyntaxError:  # newer syntax than this interpreter's, so not one of the plain conditions asked for
        return False


def without_statement(module: cst.Module, constructor: Constructor, statement: Statement) -> cst.Module:
    """The module without this statement, the comment directly above it and the blank lines before that.

    A blank line stays where the next statement would otherwise touch the one before. Raises CodemodRefused if nothing
    would be left in the block.
    """
    body = list(constructor.block.body)
    index = next(i for i, node in enumerate(body) if node is statement)
    if len(body) == 1:
        raise CodemodRefused(f"nothing would be left in {constructor.class_def.name.value}.__init__")
    above = list(statement.leading_lines)
    own_comment = 0
    while own_comment < len(above) and above[len(above) - 1 - own_comment].comment is not None:
        own_comment += 1
    kept = above[: len(above) - own_comment]
    if index + 1 < len(body):
        following = body[index + 1]
        assert isinstance(following, (cst.SimpleStatementLine, cst.BaseCompoundStatement))
        body[index + 1] = following.with_changes(leading_lines=_joined(kept, following.leading_lines))
        return _with_body(module, constructor, [*body[:index], *body[index + 1 :]])
    while kept and kept[-1].comment is None:
        kept.pop()
    block = constructor.block.with_changes(body=body[:index], footer=[*kept, *constructor.block.footer])
    return _with_block(module, constructor, block)


def with_guard(module: cst.Module, constructor: Constructor, statement: Statement, condition: str) -> cst.Module:
    """The module with this statement moved, lines below the first included, into a new `if CONDITION:`."""
    assert isinstance(statement, cst.SimpleStatementLine)
    guard = cst.If(
        test=cst.parse_expression(condition),
        body=cst.IndentedBlock(
            body=[statement.with_changes(leading_lines=())],
            indent=constructor.block.indent,
            header=cst.TrailingWhitespace(newline=statement.trailing_whitespace.newline),
        ),
        leading_lines=statement.leading_lines,
    )
    return _with_body(module, constructor, [guard if node is statement else node for node in constructor.block.body])


def _joined(above: Sequence[cst.EmptyLine], below: Sequence[cst.EmptyLine]) -> list[cst.EmptyLine]:
    """Two runs of leading lines as one, without blank lines doubled where they meet."""
    lines = list(above)
    while lines and below and lines[-1].comment is None and below[0].comment is None:
        lines.pop()
    return [*lines, *below]


def _with_body(module: cst.Module, constructor: Constructor, body: Sequence[cst.BaseStatement]) -> cst.Module:
    return _with_block(module, constructor, constructor.block.with_changes(body=body))


def _with_block(module: cst.Module, constructor: Constructor, block: cst.IndentedBlock) -> cst.Module:
    """The module with the constructor's block replaced, along the spine, so that no other node is even visited."""
    function = constructor.function.with_changes(body=block)
    class_block = constructor.class_def.body
    class_def = constructor.class_def.with_changes(
        body=class_block.with_changes(
            body=[function if node is constructor.function else node for node in class_block.body]
        )
    )
    return module.with_changes(body=[class_def if node is constructor.class_def else node for node in module.body])


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number or 'no'} {singular if number == 1 else plural}"
