"""RECORD: how rows are read, and that an edit changes no others."""

from __future__ import annotations

from typing import Optional

import pytest

from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.record import Row, edit, parse, row_for

ORIGIN = "site/neuralforecast-1.7.4.dist-info/RECORD"
# A row that the csv module would write differently.
ODD = b'"a.py","sha256=abc",3\n'


@pytest.mark.parametrize(
    ("content", "hash_", "size"),
    [
        (b"", "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", "0"),
        (b"import torch\n", "sha256=uRo7xeIGTQJaiuEiVVyWlI7FtIldU9gJxLZrcaSRUTM", "13"),
    ],
)
def test_a_row_holds_the_path_the_unpadded_urlsafe_digest_and_the_size(content: bytes, hash_: str, size: str) -> None:
    assert row_for("neuralforecast/a.py", content) == ("neuralforecast/a.py", hash_, size)


@pytest.mark.parametrize(
    ("record", "paths"),
    [
        (b"a.py,sha256=abc,3\nb.py,,\n", ["a.py", "b.py"]),
        (b"a.py,sha256=abc,3\r\nb.py,,\r\n", ["a.py", "b.py"]),
        (b"a.py,sha256=abc,3\nb.py,,", ["a.py", "b.py"]),
        (b'"a,""1"".py",sha256=abc,3\n', ['a,"1".py']),
        ('"a\rb.py",,\nc\u2028d\x0be.py,,\n'.encode(), ["a\rb.py", "c\u2028d\x0be.py"]),
    ],
    ids=["plain", "Windows line endings", "no line ending at the end", "quoted", "line separators in names"],
)
def test_quoted_and_escaped_paths_are_read(record: bytes, paths: list[str]) -> None:
    assert [path for path, _, _ in parse(record, ORIGIN)] == paths


def test_hash_and_size_are_read_unchanged() -> None:
    assert parse(b"a.py,sha256=abc,3\nb.py,,\n", ORIGIN) == (("a.py", "sha256=abc", "3"), ("b.py", "", ""))


@pytest.mark.parametrize(
    ("record", "place"),
    [
        (b"", ""),
        (b"a.py,,\n\xff.py,,\n", "byte 7"),
        (b"a.py,,\nb.py,sha256=x\n", "line 2"),
        (b"a.py,,,\n", "line 1"),
        (b",sha256=abc,3\n", "line 1"),
        (b"a.py,,\n\nb.py,,\n", "line 2"),
        (b'a.py,,\n"b.py,,\n', "line 2"),
        (b'"a"b.py,,\n', "line 1"),
    ],
    ids=[
        "empty",
        "not UTF-8",
        "too few fields",
        "too many fields",
        "no path",
        "blank line",
        "open quote",
        "closed quote within a field",
    ],
)
def test_an_invalid_record_is_an_environment_error_that_names_the_row(record: bytes, place: str) -> None:
    for read in (lambda: parse(record, ORIGIN), lambda: edit(record, ORIGIN, {})):
        with pytest.raises(InstallEnvironmentError) as problem:
            read()
        assert str(problem.value).startswith(ORIGIN)
        assert place in str(problem.value)


@pytest.mark.parametrize(
    ("record", "changes", "edited"),
    [
        (ODD + b"b.py,,", {}, ODD + b"b.py,,"),
        (ODD + b"b.py,,\n" + ODD, {"b.py": ("b.py", "sha256=x", "1")}, ODD + b"b.py,sha256=x,1\n" + ODD),
        (b"b.py,,\n" + ODD + b"b.py,,\n", {"b.py": None}, ODD),
        (ODD, {"b.py": None}, ODD),
        (ODD, {"b.py": ("b.py", "", ""), "c,1.py": ("c,1.py", "", "")}, ODD + b'b.py,,\n"c,1.py",,\n'),
        (ODD + ODD + b"b.py,,", {"c.py": ("c.py", "", "")}, ODD + ODD + b"b.py,,\nc.py,,\n"),
        (b"a.py,,\r\nb.py,,", {"c.py": ("c.py", "", "")}, b"a.py,,\r\nb.py,,\r\nc.py,,\r\n"),
        (b"a.py,,\nb.py,,\r", {"c.py": ("c.py", "", "")}, b"a.py,,\nb.py,,\r\nc.py,,\n"),
        (b"a.py,,\r\nb.py,,\n", {"a.py": ("a.py", "", "1")}, b"a.py,,1\r\nb.py,,\n"),
        (b"a.py,,\n", {"a.py": None, "b.py": ("b.py", "", "")}, b"b.py,,\n"),
        (b"a.py,,\n", {"a.py": None}, b""),
    ],
    ids=[
        "nothing",
        "a row replaced",
        "a row removed",
        "an absent row removed",
        "rows added",
        "a row added after an open line",
        "a row added with Windows line endings",
        "a row added after half of a Windows line ending",
        "a row replaced with Windows line endings",
        "the only row removed and one added",
        "the only row removed",
    ],
)
def test_an_edit_changes_its_rows_and_no_other_byte(
    record: bytes, changes: dict[str, Optional[Row]], edited: bytes
) -> None:
    assert edit(record, ORIGIN, changes) == edited
