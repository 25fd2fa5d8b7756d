"""Replacing statements by new ones with LibCST, so that what both have in common keeps its bytes."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from textwrap import dedent
from typing import Optional, Union, cast

import libcst as cst

from nfpatch.codemod import CodemodRefused
from nfpatch.patching.source import is_same, parsed_statements

Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]
ArgOrParam = Union[cst.Arg, cst.Param]
Block = Union[cst.Module, cst.BaseSuite]

EMPTY = cst.Module(body=())
ANY_BODY = cst.SimpleStatementSuite(body=[cst.Expr(cst.Ellipsis())])
# Put around the lines of a function or class, so that they can be parsed alone.
_HEAD = "if 1:"


def render_replacement(lines: Sequence[bytes], old: str, new: str, encoding: str, outer: str) -> bytes:
    """The replacement of these lines, which contain the statements `old` as a file has them, by the statements `new`.

    `outer` is the indentation of the function or class around them. Raises CodemodRefused if LibCST cannot reproduce
    the lines byte for byte.
    """
    text = b"".join(lines).decode(encoding)
    first = lines[0].decode(encoding)
    newline = first[len(first.rstrip("\r\n")) :] or "\n"
    # so that LibCST detects the depth, the indentation and the line endings that the lines have in the file
    heads = "".join(f"{indent}{_HEAD}{newline}" for indent in dict.fromkeys(("", outer)) if text[0] in " \t\f")
    module = _parsed(heads + text)
    block: Block = module
    for _ in range(heads.count(_HEAD)):
        block = cast("cst.If", block.body[0]).body
    style = _Style(block.indent, block.header.newline) if isinstance(block, cst.IndentedBlock) else _Style(None)
    merger = _Merger(_statements_of(block), _parsed_statements(old), style)
    added = _parsed_statements(new)
    body = [merger.render(statement) for statement in added]
    for number, statement in enumerate(added[1:], start=1):
        if body[number] is merger.known[0][0]:  # it was the first one, and needs the blank lines of the new one now
            blank = [cast("cst.EmptyLine", line.visit(style)) for line in statement.leading_lines]
            body[number] = body[number].with_changes(leading_lines=blank)
    result = module.with_changes(body=body) if block is module else module.with_deep_changes(block, body=body)
    return result.code[len(heads) :].encode(encoding)


def _parsed(text: str) -> cst.Module:
    try:
        module = cst.parse_module(text)
        reproduced = module.code
    except cst.ParserSyntaxError as error:
        raise CodemodRefused(f"it does not parse: {error.message} in line {error.raw_line}") from error
    except RecursionError as error:
        raise CodemodRefused("it is nested too deeply to be parsed") from error
    if reproduced != text:
        raise CodemodRefused("LibCST cannot reproduce it byte for byte")
    return module


# The syntax trees of the statements in the texts of patches, so that their code is not parsed twice.
_TREES: dict[cst.CSTNode, ast.stmt] = {}


@cache
def _parsed_statements(text: str) -> tuple[Statement, ...]:
    """The statements in a text, which may be indented as a whole."""
    source = dedent(text).strip() + "\n"
    statements = tuple(_statements_of(cst.parse_module(source)))
    _remember(statements, parsed_statements(source))
    return statements


def _remember(statements: Sequence[Statement], trees: Sequence[ast.stmt]) -> None:
    """Cache the trees of statements, and of those in their bodies if both parsers split these in the same way."""
    if len(statements) == len(trees):
        for statement, tree in zip(statements, trees):
            _TREES[statement] = tree
            if isinstance(statement, cst.BaseCompoundStatement) and isinstance(statement.body, cst.IndentedBlock):
                _remember(_statements_of(statement.body), getattr(tree, "body", ()))


def _mean_the_same(one: Statement, other: Statement, but: tuple[str, ...] = ()) -> bool:
    """Whether two statements in texts of patches mean the same, except for these fields of Python's trees."""
    if one in _TREES and other in _TREES:
        return is_same(_TREES[one], _TREES[other], but)
    if "body" in but:
        one, other = (each.with_changes(body=ANY_BODY) for each in (one, other))
    return _meaning_of(one) == _meaning_of(other)


def _statements_of(block: Block) -> Sequence[Statement]:
    """The statements of a block. LibCST's types do not express that it contains nothing else."""
    return cast("Sequence[Statement]", block.body)


@lru_cache(maxsize=256)
def _meaning_of(statement: cst.CSTNode) -> Optional[str]:
    """The meaning of a statement, without its spaces, line breaks and comments; None if Python cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(EMPTY.code_for_node(statement)))
    except SyntaxError:  # newer syntax than this interpreter's, which no patch mentions
        return None


class _Merger:
    """Renders new statements so that the statements, or parts of statements, in the file that they share keep bytes."""

    def __init__(self, found: Sequence[Statement], old: Sequence[Statement], style: _Style) -> None:
        self.known = list(_pairs(found, old))
        self.style = style

    def render(self, new: Statement) -> Statement:
        for found, old in self.known:
            if _mean_the_same(old, new):
                return found
        for found, old in self.known:
            merged = self._merged(found, old, new)
            if merged is not None:
                return merged
        if isinstance(new, cst.BaseCompoundStatement) and isinstance(new.body, cst.IndentedBlock):
            head = new.with_changes(body=new.body.with_changes(body=())).visit(self.style)
            assert isinstance(head, cst.BaseCompoundStatement)
            return head.with_changes(body=self._filled(head.body, new.body))
        styled = new.visit(self.style)
        assert isinstance(styled, (cst.SimpleStatementLine, cst.BaseCompoundStatement))
        return styled

    def _filled(self, block: cst.BaseSuite, new: cst.BaseSuite) -> cst.BaseSuite:
        return block.with_changes(body=[self.render(statement) for statement in _statements_of(new)])

    def _merged(self, found: Statement, old: Statement, new: Statement) -> Optional[Statement]:
        """The statement in the file, changed where the new one differs from the old.

        None unless they have enough in common: the header of a compound statement, everything except the parameters of
        a method, or everything except the arguments of the call in a line.
        """
        old_call, new_call, found_call = map(_call_of, (old, new, found))
        if old_call is not None and new_call is not None and found_call is not None:
            bare = (old.with_deep_changes(old_call, args=()), new.with_deep_changes(new_call, args=()))
            if _meaning_of(bare[0]) != _meaning_of(bare[1]):
                return None
            args = _with_items(found_call.args, old_call.args, new_call.args)
            return found.with_deep_changes(found_call, args=args)
        if isinstance(found, cst.FunctionDef) and isinstance(old, cst.FunctionDef) and isinstance(new, cst.FunctionDef):
            none = cst.Parameters()
            if _meaning_of(old.with_changes(params=none)) != _meaning_of(new.with_changes(params=none)):
                return None
            params = _with_items(found.params.params, old.params.params, new.params.params)
            return found.with_changes(params=found.params.with_changes(params=params))
        if (
            isinstance(old, cst.BaseCompoundStatement)
            and isinstance(new, cst.BaseCompoundStatement)
            and _mean_the_same(old, new, but=("body",))
            and isinstance(found.body, type(new.body))
        ):
            return found.with_changes(body=self._filled(found.body, new.body))
        return None


def _pairs(found: Sequence[Statement], old: Sequence[Statement]) -> Iterator[tuple[Statement, Statement]]:
    """Pairs of a statement in the file and the old one that it matches, including those in compound statements."""
    for one, other in zip(found, old):
        yield one, other
        if isinstance(one.body, cst.IndentedBlock) and isinstance(other.body, cst.IndentedBlock):
            yield from _pairs(_statements_of(one.body), _statements_of(other.body))


def _call_of(statement: Statement) -> Optional[cst.Call]:
    """The call whose result a line assigns, returns or ignores."""
    part = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    value = part.value if isinstance(part, (cst.Assign, cst.Return, cst.Expr)) else None
    return value if isinstance(value, cst.Call) else None


def _with_items(found: Sequence[ArgOrParam], old: Sequence[ArgOrParam], new: Sequence[ArgOrParam]) -> list[ArgOrParam]:
    """The arguments or parameters in the file, changed where the new ones differ from the old.

    New ones get the separators of their neighbours: the last one those of the last, all others those of the first.
    """
    indices = {_name_of(item): index for index, item in enumerate(old)}
    items: list[ArgOrParam] = []
    for item in new:
        index = indices.get(_name_of(item))
        known = item if index is None else found[index]
        if index is not None and _code_of(old[index]) != _code_of(item):
            changed = {"value": item.value} if isinstance(item, cst.Arg) else {"default": item.default}
            known = known.with_changes(**changed)
        has_separators = index is not None and index < len(found) - 1
        items.append(known if has_separators else _copy_separators(known, found[0], len(found) > 1))
    return [*items[:-1], _copy_separators(items[-1], found[-1])]


def _copy_separators(item: ArgOrParam, other: ArgOrParam, is_followed: bool = True) -> ArgOrParam:
    """The item with the comma and the whitespace of the other one; comments stay with their own item."""
    comma = other.comma if is_followed else cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    lines, own = _lines_behind(other), _lines_behind(item)
    if isinstance(comma, cst.Comma) and lines is not None and is_followed:
        if own is not None:
            lines = lines.with_changes(first_line=own.first_line, empty_lines=own.empty_lines)
        elif lines.first_line.comment is not None or lines.empty_lines:
            bare = cst.TrailingWhitespace(newline=lines.first_line.newline)
            lines = lines.with_changes(first_line=bare, empty_lines=())
        comma = comma.with_changes(whitespace_after=lines)
    space = "whitespace_after_param" if isinstance(item, cst.Param) else "whitespace_after_arg"
    return item.with_changes(comma=comma, **{space: getattr(other, space)})


def _lines_behind(item: ArgOrParam) -> Optional[cst.ParenthesizedWhitespace]:
    """The whitespace between the comma of an argument or parameter and the next one, if that is on a new line."""
    behind = item.comma.whitespace_after if isinstance(item.comma, cst.Comma) else None
    return behind if isinstance(behind, cst.ParenthesizedWhitespace) else None


def _name_of(item: ArgOrParam) -> str:
    """The keyword of an argument, if it has one, or what it is; the name of a parameter."""
    if isinstance(item, cst.Param):
        return item.name.value
    return item.keyword.value if item.keyword is not None else _code_of(item)


def _code_of(item: ArgOrParam) -> str:
    return "".join(EMPTY.code_for_node(item.with_changes(comma=cst.MaybeSentinel.DEFAULT)).split())


class _Style(cst.CSTTransformer):
    """Gives new code the indentation and the line endings of the code around it."""

    def __init__(self, indent: Optional[str], newline: Optional[cst.Newline] = None) -> None:
        self.indent = indent
        self.newline = newline or cst.Newline()

    def leave_IndentedBlock(self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock) -> cst.BaseSuite:
        return updated_node.with_changes(indent=self.indent)

    def leave_EmptyLine(self, original_node: cst.EmptyLine, updated_node: cst.EmptyLine) -> cst.EmptyLine:
        return updated_node.with_changes(indent=updated_node.comment is not None)

    def leave_Newline(self, original_node: cst.Newline, updated_node: cst.Newline) -> cst.Newline:
        return self.newline
