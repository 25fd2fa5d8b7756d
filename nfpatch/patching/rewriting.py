"""Computes the edits of a codemod in a source file.

The statements of a change are found in the syntax tree of the function that contains them. LibCST merges the new
statements into the old ones (`libcst_merge`), and parses nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from textwrap import dedent

from nfpatch.codemod import RUNTIME_PACKAGE, Change, CodemodRefused, Rewrite
from nfpatch.patching.edits import Edit, apply_edits, merge_adjacent
from nfpatch.patching.source import CodeBlock, SourceFile, indentation_of, is_same, parsed_statements


def edits_of(rewrite: Rewrite, source: SourceFile, fingerprinted: bool = False) -> tuple[Edit, ...]:
    """The edits of the codemod in this source.

    `fingerprinted` means that the caller compares the result with a fingerprint. Each function is then found by its
    text, and the conditions on the rest of the file are not checked, as this was done when the fingerprint was
    recorded. Raises CodemodRefused if the source cannot be parsed or is not what the codemod expects.
    """
    return merge_adjacent(separate_edits_of(rewrite, source, fingerprinted))


def separate_edits_of(rewrite: Rewrite, source: SourceFile, fingerprinted: bool = False) -> tuple[Edit, ...]:
    """Like `edits_of`, but adjacent edits are not merged."""
    if not fingerprinted:
        _check_before(rewrite, source)
    edits = (
        *_import_edits(rewrite.imports, source, fingerprinted),
        *(
            edit
            for change in rewrite.changes
            for edit in _edits_of_change(change, _find_block(change, source, fingerprinted), source)
        ),
    )
    if not fingerprinted:
        _check_after(rewrite, source, merge_adjacent(edits))
    return edits


def check_stands(rewrite: Rewrite, source: SourceFile) -> None:
    """Raise CodemodRefused unless the source already contains what the codemod writes.

    Also raises it if that cannot be decided: if the codemod imports runtime modules, or removes statements.
    """
    if rewrite.imports or not all(change.new for change in rewrite.changes if change.new is not None):
        raise CodemodRefused("it cannot be distinguished from its result")
    written = [change._replace(old=change.new, new=None) for change in rewrite.changes if change.new is not None]
    if not written:
        raise CodemodRefused("it writes nothing")
    edits_of(Rewrite(tuple(written)), source)


def rewritten(source: bytes, rewrites: Mapping[str, Rewrite]) -> bytes:
    """The source with the edits of these codemods, by patch id. No fingerprints are used.

    Raises CodemodRefused as `edits_of` and `apply_edits` do; the error names the patch.
    """
    module, edits = SourceFile(source), {}
    for patch_id, rewrite in rewrites.items():
        try:
            edits[patch_id] = edits_of(rewrite, module)
        except CodemodRefused as error:
            raise CodemodRefused(f"for {patch_id}, {error}") from error
    return apply_edits(source, edits)


def check_parses(source: bytes) -> None:
    """Raise CodemodRefused unless the source can be parsed: the last check of a result without a fingerprint."""
    _ = SourceFile(source).tree


def _check_before(rewrite: Rewrite, source: SourceFile) -> None:
    from nfpatch.patching import readers

    for where, parameters in rewrite.unused_arguments.items():
        for parameter in parameters:
            readers.check_ignored(source.definition(where).node, where, parameter)
    for attribute in rewrite.guarded_attributes:
        readers.check_assigned_once(source, attribute)
    for where, statements in rewrite.absent.items():
        body = source.definition(where).body
        for statement in (statement for text in statements for statement in _statements(text)):
            if any(_is_like(found, statement) for found in body):
                raise CodemodRefused(f"{where} already contains `{_first_words(statement)}`")


def _check_after(rewrite: Rewrite, source: SourceFile, edits: Sequence[Edit]) -> None:
    from nfpatch.patching import readers

    if rewrite.guarded_attributes:
        result = SourceFile(apply_edits(source.content, {"": edits}))
        quoted = {line for change in rewrite.changes if change.new is None for line in _lines_of(change, source)}
        for attribute, condition in rewrite.guarded_attributes.items():
            readers.check_unread(result, attribute, condition, source, quoted)


def _lines_of(change: Change, source: SourceFile) -> range:
    """The numbers of the lines that a change quotes; none if it uses `...` as the body of a statement."""
    expected, block = _statements(change.old), _find_block(change, source, fingerprinted=False)
    start = _find_statements(expected, block, change.where)
    if any(map(_has_any_body, expected)):
        return range(0)
    return range(_first_line(block.body[start]), _last_line(block.body[start + len(expected) - 1]) + 1)


def _import_edits(modules: Sequence[str], source: SourceFile, fingerprinted: bool) -> Iterator[Edit]:
    """The edit that imports runtime modules, before the first import of the file."""
    if modules:
        at, ending = source.first_import_by_text() if fingerprinted else source.first_import()
        lines = (b"from %s import %s%s" % (RUNTIME_PACKAGE.encode(), name.encode(), ending) for name in sorted(modules))
        yield Edit(at, at, b"".join(lines), is_import=True)


def _find_block(change: Change, source: SourceFile, fingerprinted: bool) -> CodeBlock:
    """The block that contains the statements of a change."""
    if not fingerprinted:
        block = source.definition(change.where)
    else:
        first, *others = _statements(change.old)
        only = first.name if isinstance(first, ast.FunctionDef) and not others and not change.inside else ""
        block = source.definition_by_text(change.where, only)
    return block if not change.inside else _nested_block(block, change)


def _nested_block(block: CodeBlock, change: Change) -> CodeBlock:
    """The nested block that the headers in `inside` lead to.

    If several statements have the same header, it is the one whose block contains the statements of the change. Raises
    CodemodRefused unless there is exactly one.
    """
    found: list[ast.stmt] = []
    blocks = [block.body]
    for head in change.inside:
        keyword = head.partition(" ")[0].rstrip(":")
        if keyword in ("else", "elif"):  # they belong to the statements of the last iteration
            found = [each for each in found if getattr(each, "orelse", [])]
            blocks = [getattr(each, "orelse", []) for each in found]
        if keyword != "else":
            (expected,) = _statements(f"{head[2:] if keyword == 'elif' else head}\n    ...")
            but = ("body", "orelse", "handlers", "finalbody")
            found = [each for block in blocks for each in block if is_same(each, expected, but)]
            blocks = [getattr(each, "body", []) for each in found]
        if not found:
            raise CodemodRefused(f"`{head}` occurs 0 times in {change.where}, not once")
    candidates = list(zip(found, blocks))
    if len(candidates) > 1:
        expected_here = _statements(change.old)
        candidates = [(each, block) for each, block in candidates if _starts_of(expected_here, block)]
    if len(candidates) != 1:
        words = f"`{change.inside[-1]}` with `{_first_words(_statements(change.old)[0])}`"
        raise CodemodRefused(f"{words} occurs {len(candidates)} times in {change.where}, not once")
    ((statement, body),) = candidates
    return replace(block, body=body, indent=indentation_of(block.line(statement.lineno)))


def _edits_of_change(change: Change, block: CodeBlock, source: SourceFile) -> Iterator[Edit]:
    """The edits of a change: one, or none. Raises CodemodRefused unless its statements occur exactly once."""
    expected, body = _statements(change.old), block.body
    start = _find_statements(expected, block, change.where)
    if change.new is None:
        return
    end = start + len(expected)
    first, last = _first_line(body[start]), _last_line(body[end - 1])
    new = _statements(change.new)
    if not new:
        if len(expected) == len(body):
            raise CodemodRefused(f"nothing would be left in {change.where}")
        yield Edit(block.offset(_first_line_to_remove(block, start, end)), block.offset(last + 1), b"")
        return
    _check_bodies_stay(expected, new, change.where)
    from nfpatch.patching.libcst_merge import render_replacement

    kept = _kept_around(expected, new)
    line_before = block.line(_last_line(body[start + kept - 1])) if kept else b""
    ending = line_before[len(line_before.rstrip(b"\r\n")) :]
    if ending:  # statements are only added, so the existing lines need not be parsed by LibCST
        added = _text_behind(change.new, new[kept - 1], new[len(new) - len(expected) + kept - 1])
        anchor = indentation_of(block.line(body[start].lineno)).encode("ascii") + b"pass" + ending
        text = render_replacement([anchor], "pass", "pass\n" + added, source.encoding, block.indent)[len(anchor) :]
        where = block.offset(_last_line(body[start + kept - 1]) + 1)
        yield Edit(where, where, text)
        return
    lines = [block.line(number) for number in range(first, last + 1)]
    text = render_replacement(lines, change.old, change.new, source.encoding, block.indent)
    yield from _trimmed(Edit(block.offset(first), block.offset(last + 1), text), source.content)


def _check_bodies_stay(old: Sequence[ast.stmt], new: Sequence[ast.stmt], where: str) -> None:
    """Raise CodemodRefused if a statement with `...` as its body is removed, because the body is not quoted.

    It may only be replaced by a function of the same name with other parameters.
    """
    for statement in filter(_has_any_body, old):
        name = getattr(statement, "name", None)
        functions = [each for each in new if isinstance(each, ast.FunctionDef) and each.name == name]
        if not functions and not any(is_same(statement, each) for each in new):
            raise CodemodRefused(
                f"it would remove the body of `{_first_words(statement)}` in {where} without quoting it"
            )


def _kept_around(old: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> int:
    """The number of old statements before the added ones; 0 unless statements are only added between or after them."""
    before = 0
    while before < min(len(old), len(new)) and is_same(old[before], new[before]):
        before += 1
    behind = len(old) - before
    is_added_only = len(new) > len(old) and all(map(is_same, old[before:], new[len(new) - behind :]))
    return before if is_added_only else 0


def _text_behind(text: str, last_before: ast.stmt, last: ast.stmt) -> str:
    """The lines of a patch's text after one statement up to another, including comments and blank lines."""
    lines = dedent(text).strip().splitlines(keepends=True)
    return "".join(lines[_last_line(last_before) : _last_line(last)])


@cache
def _statements(text: str) -> tuple[ast.stmt, ...]:
    """The statements in a text, which may be indented as a whole."""
    return tuple(parsed_statements(dedent(text).strip() + "\n"))


def _find_statements(expected: Sequence[ast.stmt], block: CodeBlock, where: str) -> int:
    """The index of these statements in the body. Raises CodemodRefused unless they occur exactly once."""
    body = block.body
    if not isinstance(block.node, ast.Module) and not _begins_its_line(block, body[0]):
        raise CodemodRefused(f"`{where.rpartition('.')[2]}` is defined on one line")
    starts = [
        start
        for start in _starts_of(expected, body)
        if all(_begins_its_line(block, each) for each in body[start : start + len(expected) + 1])
    ]
    if len(starts) == 1:
        return starts[0]
    words = _first_words(expected[0]) if len(expected) == 1 else f"{_first_words(expected[0]).rstrip('. ')} ..."
    raise CodemodRefused(
        f"`{words}` occurs {len(starts)} times in {where}, not once"
        if starts
        else f"`{words}` is not a statement of {where}"
    )


def _starts_of(expected: Sequence[ast.stmt], body: Sequence[ast.stmt]) -> list[int]:
    """The indices in the body at which statements like these begin."""
    starts = range(len(body) - len(expected) + 1)
    return [start for start in starts if all(map(_is_like, body[start : start + len(expected)], expected))]


def _first_words(statement: ast.stmt) -> str:
    """The first line of a statement, with "..." if there are more."""
    first, *more = ast.unparse(statement).splitlines()
    return f"{first} ..." if more else first


def _begins_its_line(block: CodeBlock, statement: ast.stmt) -> bool:
    return not block.line(statement.lineno)[: statement.col_offset].strip()


def _is_like(found: ast.stmt, expected: ast.stmt) -> bool:
    """Whether both mean the same; only their headers are compared if any body is expected."""
    heads_only = ("body",) if _has_any_body(expected) else ()
    return is_same(found, expected, heads_only)


def _has_any_body(statement: ast.stmt) -> bool:
    """Whether the body of the statement is `...`."""
    body = getattr(statement, "body", None)
    only = body[0] if isinstance(body, list) and len(body) == 1 else None
    return isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and only.value.value is Ellipsis


def _first_line(statement: ast.stmt) -> int:
    """The number of its first line, including decorators."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _last_line(statement: ast.stmt) -> int:
    assert statement.end_lineno is not None, "parsed statements have an end"
    return statement.end_lineno


def _first_line_to_remove(block: CodeBlock, start: int, end: int) -> int:
    """The first line to remove with these statements: of the comment directly above, or of the blank lines before.

    A blank line is kept if the statements before and after would otherwise not be separated.
    """
    body = block.body
    number = _first_line(body[start])
    above = _last_line(body[start - 1]) if start else _last_line_of_head(block)
    indent = indentation_of(block.line(body[start].lineno)).encode("ascii")
    while number - 1 > above and block.line(number - 1).startswith(indent + b"#"):
        number -= 1
    is_last = end == len(body)
    if is_last or not block.line(_last_line(body[end - 1]) + 1).strip():
        blank = number
        while blank - 1 > above and not block.line(blank - 1).strip():
            blank -= 1
        number = blank
    return number


def _last_line_of_head(block: CodeBlock) -> int:
    """The number of the last line before the body that is neither blank nor a comment; in a module, one less."""
    number = _first_line(block.body[0]) - 1
    while number >= block.first_number and block.line(number).strip()[:1] in (b"", b"#"):
        number -= 1
    return number


def _trimmed(edit: Edit, content: bytes) -> Iterator[Edit]:
    """The edit without unchanged lines at its beginning and end; nothing if all lines are unchanged."""
    old, new = (text.splitlines(keepends=True) for text in (content[edit.start : edit.stop], edit.new))
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    head = sum(map(len, old[:same]))
    old, new = old[same:], new[same:]
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    if old or new:
        start = edit.start + head
        yield Edit(start, start + sum(map(len, old)), b"".join(new))
