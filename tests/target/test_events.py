"""Records that one interpreter writes are read back unchanged by another, or refused."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from nfpatch.target import ENTRY
from nfpatch.target.events import (
    KINDS,
    CallReturned,
    CaseSpec,
    Entry,
    Event,
    FitCompared,
    Frame,
    ReferenceMade,
    Training,
    TrainingObserved,
    TrainSpec,
    WrongRecord,
    decode,
    encode,
)

CASE = CaseSpec("a", "NHITS", "MAE", exogenous=("static",), options={"mlp_units": [[8, 8]], "h": 2}, like="b")
OBSERVED = TrainingObserved(0, 1, Training(losses=(1.0, 2.5), unused_by_torch=("out.weight",)))
RETURNED = CallReturned(3, (Frame(24, ("ds", "NHITS"), None, 0, "d"),), ("w",), ())
COMPARED = FitCompared(0, ("a",), 0.5, True, False, (), ())


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "event", [OBSERVED, RETURNED, COMPARED, ReferenceMade(1, validation=2)], ids=lambda e: type(e).__name__
)
def test_a_log_entry_is_read_back_unchanged(event: Any) -> None:
    entry = Entry(1, 100, 2.5, event)

    assert Entry.from_json(as_json(entry.to_json())) == entry


def test_a_specification_is_read_back_unchanged() -> None:
    spec = TrainSpec({"released": None}, (CASE,), "torchrun", "cpu", 2, 2, 2, 3, False, 1.0, 2.0, "out")

    assert decode(TrainSpec, as_json(encode(spec))) == spec


def test_every_event_has_a_unique_name() -> None:
    assert len(KINDS) == len(Event.__subclasses__())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": None}, "steps"),
        ({"steps": "3"}, "steps"),
        ({"steps": True}, "steps"),
        ({"losses": [1.0, "2"]}, "losses"),
        ({"own_layers": [{"layer": "out"}]}, "OwnLayerUnused"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_malformed_record_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(WrongRecord, match=word):
        decode(Training, {**as_json(encode(OBSERVED.training)), **change})


@pytest.mark.parametrize("name", [each.name for each in fields(Training)])
def test_a_missing_field_is_refused(name: str) -> None:
    content = as_json(encode(OBSERVED.training))
    del content[name]

    with pytest.raises(WrongRecord, match=f"lacks {name}"):
        decode(Training, content)


@pytest.mark.parametrize("line", [{}, [], {"event": "Surprise", "fields": {}, "rank": 0, "pid": 1, "time": 0.0}])
def test_other_json_is_refused(line: Any) -> None:
    with pytest.raises(WrongRecord):
        Entry.from_json(line)


def test_another_interpreter_reads_the_same_records(python: Path) -> None:
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import events\n"
        "print(json.dumps(events.Entry.from_json(json.loads(sys.argv[2])).to_json()))"
    )
    line = Entry(0, 1, 2.0, OBSERVED).to_json()
    done = subprocess.run(
        [python, "-c", program, ENTRY.parent, json.dumps(line)], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == as_json(line)
