"""Records between nfpatch and the process that reads saved models are received unchanged, or are an error."""

from __future__ import annotations

import pytest

from nfpatch.target.events import WrongRecord
from nfpatch.target.messages import (
    FileCheck,
    FilesChecked,
    MigrateSpec,
    SavedFile,
    WriteFiles,
    Written,
    line_of,
    record_in,
)


@pytest.mark.parametrize(
    "record",
    [
        MigrateSpec((SavedFile("a.ckpt", None, ("TFT",)),), {"TFT": ("static_encoder.*",)}, None, "tree", False),
        FilesChecked((FileCheck("misfit", "TFT", dropped=("a",), added=("b",)), FileCheck("already-fits"))),
        WriteFiles((1, 3), "folder"),
        Written(1, "no room", 28),
    ],
)
def test_a_record_is_received_unchanged(record: object) -> None:
    line = line_of(record)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert record_in(line, type(record)) == record


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"files": [1], "folder": "a", "more": 1}',
        '{"files": ["1"], "folder": "a"}',
    ],
)
def test_other_text_is_an_error(line: str) -> None:
    with pytest.raises(WrongRecord):
        record_in(line, WriteFiles)
