"""New statements in the place of found ones, by LibCST: what both have in common keeps its bytes."""

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
Item = Union[cst.Arg, cst.Param]
Block = Union[cst.Module, cst.BaseSuite]

EMPTY = cst.Module(body=())
ANY_BODY = cst.SimpleStatementSuite(body=[cst.Expr(cst.Ellipsis())])
# Stands around the lines of a function or class, so that they parse by themselves.
_HEAD = "if 1:"


def fitted(lines: Sequence[bytes], old: str, new: str, encoding: str, outer: str) -> bytes:
    """What shall stand in the place of these lines, which are the statements `old` as a file has them.

    `outer` is the indentation of the function or class around them. Raises CodemodRefused where LibCST cannot reproduce
    the lines byte for byte.
    """
    text = b"".join(lines).decode(encoding)
    first = lines[0].decode(encoding)
    newline = first[len(first.rstrip("\r\n")) :] or "\n"
    # they give the lines the depth, the step of indentation and the line ends that they have in the file
    heads = "".join(f"{indent}{_HEAD}{newline}" for indent in dict.fromkeys(("", outer)) if text[0] in " \t\f")
    module = _parsed(heads + text)
    block: Block = module
    for _ in range(heads.count(_HEAD)):
        block = cast("cst.If", block.body[0]).body
    style = _Style(block.indent, block.header.newline) if isinstance(block, cst.IndentedBlock) else _Style(None)
    fitting = _Fitting(_statements_of(block), _parsed_statements(old), style)
    added = _parsed_statements(new)
    body = [fitting.fit(statement) for statement in added]
    for number, statement in enumerate(added[1:], start=1):
        if body[number] is fitting.known[0][0]:  # it was the first, and is set off from what stands before it now
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


# What Python makes of the statements in the texts of patches, so that it need not be asked of their code again.
_TREES: dict[cst.CSTNode, ast.stmt] = {}


@cache
def _parsed_statements(text: str) -> tuple[Statement, ...]:
    """The statements of a text that may be indented as a whole."""
    source = dedent(text).strip() + "\n"
    statements = tuple(_statements_of(cst.parse_module(source)))
    _remember(statements, parsed_statements(source))
    return statements


def _remember(statements: Sequence[Statement], trees: Sequence[ast.stmt]) -> None:
    """Note the trees of statements, and of those in their bodies, as far as both are distinguished in the same way."""
    if len(statements) == len(trees):
        for statement, tree in zip(statements, trees):
            _TREES[statement] = tree
            if isinstance(statement, cst.BaseCompoundStatement) and isinstance(statement.body, cst.IndentedBlock):
                _remember(_statements_of(statement.body), getattr(tree, "body", ()))


def _mean_the_same(one: Statement, other: Statement, but: tuple[str, ...] = ()) -> bool:
    """Whether two statements of patches' texts mean the same, but for these fields of Python's trees."""
    if one in _TREES and other in _TREES:
        return is_same(_TREES[one], _TREES[other], but)
    if "body" in but:
        one, other = (each.with_changes(body=ANY_BODY) for each in (one, other))
    return _meaning_of(one) == _meaning_of(other)


def _statements_of(block: Block) -> Sequence[Statement]:
    """The statements of a block; LibCST's types do not tell that there is nothing else in it."""
    return cast("Sequence[Statement]", block.body)


@lru_cache(maxsize=256)
def _meaning_of(statement: cst.CSTNode) -> Optional[str]:
    """What the statement means, whatever its spaces, line breaks and comments; None where Python cannot tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(EMPTY.code_for_node(statement)))
    except SyntaxError:  # newer syntax than this interpreter's, so nothing that a patch speaks of
        return None


class _Fitting:
    """New statements in the place of found ones: those that they share, and parts of them, keep their bytes."""

    def __init__(self, found: Sequence[Statement], old: Sequence[Statement], style: _Style) -> None:
        self.known = list(_pairs(found, old))
        self.style = style

    def fit(self, new: Statement) -> Statement:
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
        return block.with_changes(body=[self.fit(statement) for statement in _statements_of(new)])

    def _merged(self, found: Statement, old: Statement, new: Statement) -> Optional[Statement]:
        """The found statement, changed where the new one differs from the old.

        None where they have too little in common: the head of a compound statement, all but the parameters of a
        method, or all but the arguments of the call that a line makes.
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
    """The found statements with the old ones that they are like, those in the bodies of compound ones included."""
    for one, other in zip(found, old):
        yield one, other
        if isinstance(one.body, cst.IndentedBlock) and isinstance(other.body, cst.IndentedBlock):
            yield from _pairs(_statements_of(one.body), _statements_of(other.body))


def _call_of(statement: Statement) -> Optional[cst.Call]:
    """The call that a line assigns, returns or just makes."""
    part = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    value = part.value if isinstance(part, (cst.Assign, cst.Return, cst.Expr)) else None
    return value if isinstance(value, cst.Call) else None


def _with_items(found: Sequence[Item], old: Sequence[Item], new: Sequence[Item]) -> list[Item]:
    """Arguments or parameters: the found ones, changed where the new ones differ from the old.

    Each is set off as its neighbours are: those in between as the first of the found ones, the last as the last.
    """
    places = {_name_of(item): place for place, item in enumerate(old)}
    items: list[Item] = []
    for item in new:
        place = places.get(_name_of(item))
        known = item if place is None else found[place]
        if place is not None and _words_of(old[place]) != _words_of(item):
            changed = {"value": item.value} if isinstance(item, cst.Arg) else {"default": item.default}
            known = known.with_changes(**changed)
        is_set_off = place is not None and place < len(found) - 1
        items.append(known if is_set_off else _set_off_as(known, found[0], len(found) > 1))
    return [*items[:-1], _set_off_as(items[-1], found[-1])]


def _set_off_as(item: Item, other: Item, is_followed: bool = True) -> Item:
    """The item with the comma and the space behind it that the other has; comments stay with their own item."""
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


def _lines_behind(item: Item) -> Optional[cst.ParenthesizedWhitespace]:
    """What stands between the comma of an argument or parameter and the next one, if that begins a line."""
    behind = item.comma.whitespace_after if isinstance(item.comma, cst.Comma) else None
    return behind if isinstance(behind, cst.ParenthesizedWhitespace) else None


def _name_of(item: Item) -> str:
    """The keyword of an argument, if it has one, or what it is; the name of a parameter."""
    if isinstance(item, cst.Param):
        return item.name.value
    return item.keyword.value if item.keyword is not None else _words_of(item)


def _words_of(item: Item) -> str:
    return "".join(EMPTY.code_for_node(item.with_changes(comma=cst.MaybeSentinel.DEFAULT)).split())


class _Style(cst.CSTTransformer):
    """Gives new code the indentation and the line ends of the code around it."""

    def __init__(self, indent: Optional[str], newline: Optional[cst.Newline] = None) -> None:
        self.indent = indent
        self.newline = newline or cst.Newline()

    def leave_IndentedBlock(self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock) -> cst.BaseSuite:
        return updated_node.with_changes(indent=self.indent)

    def leave_EmptyLine(self, original_node: cst.EmptyLine, updated_node: cst.EmptyLine) -> cst.EmptyLine:
        return updated_node.with_changes(indent=updated_node.comment is not None)

    def leave_Newline(self, original_node: cst.Newline, updated_node: cst.Newline) -> cst.Newline:
        return self.newline
