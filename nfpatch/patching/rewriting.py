"""The edit of a LibCST tree: statements in place of others, with the bytes of what both have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Optional, TypeVar, Union, cast

import libcst as cst

from nfpatch.codemod import CodemodRefused
from nfpatch.patching.syntax import EMPTY, Statement, block_of, find_definition, meaning_of

Block = TypeVar("Block", cst.IndentedBlock, cst.Module)

ANY_BODY = cst.SimpleStatementSuite(body=[cst.Expr(cst.Ellipsis())])

Item = Union[cst.Arg, cst.Param]


def with_change(module: cst.Module, where: str, old: str, new: Optional[str]) -> cst.Module:
    """The module with the statements `old` of the function or class `where` replaced by `new`, as a Change tells.

    Raises CodemodRefused unless they stand there exactly once.
    """
    *outer, innermost = find_definition(module, where)
    block = block_of(innermost)
    expected = _statements(old)
    start = _place_of(expected, block, where)
    if new is None:
        return module
    end = start + len(expected)
    found = _lines_of(block)[start:end]
    if _statements(new):
        fitted = _Fitting(block, found, expected).fitted(_statements(new))
        changed = block.with_changes(body=[*block.body[:start], *fitted, *block.body[end:]])
    else:
        changed = _without(block, start, end, where)
    definition, result = innermost, innermost.with_changes(body=changed)
    for around in reversed(outer):
        definition, result = around, around.with_changes(body=_swapped(block_of(around), definition, result))
    return _swapped(module, definition, result)


def _lines_of(block: cst.IndentedBlock) -> Sequence[Statement]:
    """The statements of a block; LibCST's types do not tell that there is nothing else in it."""
    return cast("Sequence[Statement]", block.body)


def _swapped(block: Block, old: cst.CSTNode, new: cst.CSTNode) -> Block:
    """The block with one of its statements replaced. Nothing else in it is even looked at."""
    return block.with_changes(body=[new if node is old else node for node in block.body])


@cache
def _statements(text: str) -> tuple[Statement, ...]:
    """The statements of a text that may be indented as a whole."""
    return cast("tuple[Statement, ...]", tuple(cst.parse_module(textwrap.dedent(text).strip() + "\n").body))


def _place_of(expected: Sequence[Statement], block: cst.IndentedBlock, where: str) -> int:
    """Where in the block these statements begin. Raises CodemodRefused unless they stand there exactly once."""
    body = _lines_of(block)
    places = [
        start
        for start in range(len(body) - len(expected) + 1)
        if all(map(_is_like, body[start : start + len(expected)], expected))
    ]
    if len(places) == 1:
        return places[0]
    first, *more = EMPTY.code_for_node(expected[0].with_changes(leading_lines=())).strip().splitlines()
    words = f"{first} ..." if more or len(expected) > 1 else first
    raise CodemodRefused(
        f"`{words}` stands {len(places)} times in {where}, not once"
        if places
        else f"`{words}` is not a statement of {where} as it stands there"
    )


def _is_like(found: Statement, expected: Statement) -> bool:
    """Whether both mean the same, or are heads of the same meaning if any body is expected."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, cst.BaseCompoundStatement) and _has_any_body(expected):
        found = found.with_changes(body=ANY_BODY)
    return meaning_of(found) == meaning_of(expected) is not None


def _has_any_body(statement: Statement) -> bool:
    """Whether the body of the statement is nothing but `...`."""
    return isinstance(statement, cst.BaseCompoundStatement) and EMPTY.code_for_node(statement.body).strip() == "..."


def _without(block: cst.IndentedBlock, start: int, end: int, where: str) -> cst.IndentedBlock:
    """The block without these statements, the comment directly above them and the blank lines before that.

    A blank line stays where the next statement would otherwise touch the one before. Raises CodemodRefused if nothing
    would be left in the block.
    """
    body = _lines_of(block)
    if end - start == len(body):
        raise CodemodRefused(f"nothing would be left in {where}")
    above = list(body[start].leading_lines)
    own_comment = 0
    while own_comment < len(above) and above[len(above) - 1 - own_comment].comment is not None:
        own_comment += 1
    kept = above[: len(above) - own_comment]
    if end < len(body):
        following = body[end].with_changes(leading_lines=_joined(kept, body[end].leading_lines))
        return block.with_changes(body=[*body[:start], following, *body[end + 1 :]])
    while kept and kept[-1].comment is None:
        kept.pop()
    return block.with_changes(body=body[:start], footer=[*kept, *block.footer])


def _joined(above: Sequence[cst.EmptyLine], below: Sequence[cst.EmptyLine]) -> list[cst.EmptyLine]:
    """Two runs of leading lines as one, without blank lines doubled where they meet."""
    lines = list(above)
    while lines and below and lines[-1].comment is None and below[0].comment is None:
        lines.pop()
    return [*lines, *below]


class _Fitting:
    """New statements in the place of found ones: those that they share, and parts of them, keep their bytes."""

    def __init__(self, block: cst.IndentedBlock, found: Sequence[Statement], old: Sequence[Statement]) -> None:
        self.leading_lines = found[0].leading_lines
        self.known = list(_pairs([found[0].with_changes(leading_lines=()), *found[1:]], old))
        self.style = _Style(block.indent, block.header.newline)

    def fitted(self, new: Sequence[Statement]) -> list[Statement]:
        """The statements as they shall stand there."""
        first, *others = map(self._fit, new)
        return [first.with_changes(leading_lines=[*self.leading_lines, *first.leading_lines]), *others]

    def _fit(self, new: Statement) -> Statement:
        for found, old in self.known:
            if meaning_of(old) == meaning_of(new):
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
        return block.with_changes(body=[self._fit(cast("Statement", statement)) for statement in new.body])

    def _merged(self, found: Statement, old: Statement, new: Statement) -> Optional[Statement]:
        """The found statement, changed where the new one differs from the old.

        None where they have too little in common: the head of a compound statement, all but the parameters of a
        method, or all but the arguments of the call that a line makes.
        """
        old_call, new_call, found_call = map(_call_of, (old, new, found))
        if old_call is not None and new_call is not None and found_call is not None:
            bare = (old.with_deep_changes(old_call, args=()), new.with_deep_changes(new_call, args=()))
            if meaning_of(bare[0]) != meaning_of(bare[1]):
                return None
            args = _with_items(found_call.args, old_call.args, new_call.args)
            return found.with_deep_changes(found_call, args=args)
        if isinstance(found, cst.FunctionDef) and isinstance(old, cst.FunctionDef) and isinstance(new, cst.FunctionDef):
            none = cst.Parameters()
            if meaning_of(old.with_changes(params=none)) != meaning_of(new.with_changes(params=none)):
                return None
            params = _with_items(found.params.params, old.params.params, new.params.params)
            return found.with_changes(params=found.params.with_changes(params=params))
        if isinstance(old, cst.BaseCompoundStatement) and isinstance(new, cst.BaseCompoundStatement):
            heads = [meaning_of(statement.with_changes(body=ANY_BODY)) for statement in (old, new)]
            if heads[0] == heads[1] and isinstance(found.body, type(new.body)):
                return found.with_changes(body=self._filled(found.body, new.body))
        return None


def _pairs(found: Sequence[Statement], old: Sequence[Statement]) -> Iterator[tuple[Statement, Statement]]:
    """The found statements with the old ones that they are like, those in the bodies of compound ones included."""
    for one, other in zip(found, old):
        yield one, other
        if isinstance(one.body, cst.IndentedBlock) and isinstance(other.body, cst.IndentedBlock):
            yield from _pairs(_lines_of(one.body), _lines_of(other.body))


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

    def __init__(self, indent: Optional[str], newline: cst.Newline) -> None:
        self.indent = indent
        self.newline = newline

    def leave_IndentedBlock(self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock) -> cst.BaseSuite:
        return updated_node.with_changes(indent=self.indent)

    def leave_EmptyLine(self, original_node: cst.EmptyLine, updated_node: cst.EmptyLine) -> cst.EmptyLine:
        return updated_node.with_changes(indent=updated_node.comment is not None)

    def leave_Newline(self, original_node: cst.Newline, updated_node: cst.Newline) -> cst.Newline:
        return self.newline
