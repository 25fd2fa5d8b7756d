"""Which processes of a script are its ranks, and what they record of trainers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nfpatch.target.events import RehearsalSpec, Training
from nfpatch.target.observing import Observation
from nfpatch.target.rehearsal.recorder import CALL_VARIABLE, RANK_VARIABLE, EventRecorder
from nfpatch.target.rehearsal.training import wrap_stopping

Start = Callable[..., EventRecorder]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a process whose main program is this file, with these variables; it imports neuralforecast."""

    def make(main: str = "train.py", **variables: str) -> EventRecorder:
        for name in ("RANK", "LOCAL_RANK", RANK_VARIABLE, CALL_VARIABLE):
            monkeypatch.setenv(name, "")  # so that what `join_rank` sets is gone after the test
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        program = ModuleType("__main__")
        program.__file__ = str(tmp_path / main)
        (tmp_path / main).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / main).touch()
        monkeypatch.setitem(sys.modules, "__main__", program)
        recorder = EventRecorder(RehearsalSpec(str(tmp_path), 2, "script"))
        recorder.join_rank()
        return recorder

    return make


@pytest.mark.parametrize(
    ("variables", "main", "is_main", "is_within"),
    [
        ({}, "train.py", True, False),
        # by Lightning's launcher, in a call of the first rank
        ({"LOCAL_RANK": "1", RANK_VARIABLE: "0", CALL_VARIABLE: "0.0"}, "train.py", True, False),
        # by the script, between its calls
        ({RANK_VARIABLE: "0"}, "train.py", True, True),
        # by a library, which was started between two calls, or in one
        ({RANK_VARIABLE: "0"}, "lib/site-packages/ray/worker.py", False, False),
        ({RANK_VARIABLE: "0", CALL_VARIABLE: "0.0"}, "train.py", False, False),
    ],
)
def test_a_program_that_the_script_starts_is_its_rank_and_a_worker_is_not(
    start: Start, variables: dict[str, str], main: str, is_main: bool, is_within: bool
) -> None:
    recorder = start(main, **variables)
    assert (recorder.is_main, recorder.is_within) == (is_main, is_within)
    assert recorder.trains_for_a_rank != is_main


def test_the_line_that_stops_a_training_is_recorded_once() -> None:
    reports: list[Training] = []

    class Observer:
        observation = Observation()

        def report(self, trainer: Any, module: Any) -> None:
            reports.append(replace(self.observation.training))

    class Trainer:
        global_step, lightning_module = 3, None
        callbacks: tuple[Any, ...] = ()

        def __init__(self) -> None:
            self.should_stop = False

    wrap_stopping(Trainer)
    trainer = Trainer()
    trainer.should_stop = True  # in no call, where none is observed
    trainer = Trainer()
    trainer.callbacks = (object(), Observer())
    for stops in (False, True, True):
        trainer.should_stop = stops
    assert trainer.should_stop
    (training,) = reports
    assert training.stopped_after == 3
    assert training.stopped_by.startswith(f"{__file__}:")
