"""Records the events of a process of a rehearsal, and which call of the script is running."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..events import EventFile, ReferenceMade, RehearsalSpec, decode
from ..outcomes import message_of
from ..process import print_stack_when_asked
from . import VARIABLE
from .line_trace import LineTrace
from .own_code import is_user_file

# The rank of this process, for processes that it starts, which are ranks only if they have another
RANK_VARIABLE = "NFPATCH_REHEARSED_RANK"
# The running call and the number of its trainings, for processes that train for a rank and exit afterwards
CALL_VARIABLE = "NFPATCH_REHEARSED_CALL"
# How much of an error of a single-process reference is recorded
LONGEST_ERROR = 1000


class EventRecorder:
    """The recorder of this process and its forks."""

    def __init__(self, spec: RehearsalSpec) -> None:
        self.spec = spec
        self.rank = rank_of(spec)
        self.is_rank = self.rank is not None and os.environ.get(RANK_VARIABLE) != str(self.rank)
        # a program that the script starts between two calls becomes its rank when it imports neuralforecast
        self.is_within = self.rank is not None and not self.is_rank and CALL_VARIABLE not in os.environ
        self.is_reference_run = False  # during a single-process reference
        self.trains_reference = False  # during one that trains
        self.depth = 0  # of the running calls, because methods of neuralforecast call each other
        self.trace = LineTrace()
        self.replaced: set[Any] = set()  # the recorded methods that the script replaces
        self._next = 0
        self._pid = os.getpid()
        self._file: tuple[int, EventFile] | None = None
        self.trained: list[tuple[Any, ...]] = []  # weights, metrics and random state after each training of the call
        self.validated: dict[str, Any] | None = None  # the weights at the last validation
        if self.is_rank:
            os.environ[RANK_VARIABLE] = str(self.rank)
            os.environ.pop(CALL_VARIABLE, None)

    def join_rank(self) -> None:
        """Makes this process a rank if it is a program that the script started, and not a worker of a library."""
        file = getattr(sys.modules.get("__main__"), "__file__", None)  # missing with `-c` and in spawned processes
        self.is_within = self.is_within and (file is None or is_user_file(file))
        self.is_rank = self.is_rank or self.is_within

    @property
    def is_main(self) -> bool:
        """Whether this is the process of a rank itself, and not a fork."""
        return self.is_rank and os.getpid() == self._pid

    @property
    def trains_for_a_rank(self) -> bool:
        """Whether this process was started for a training and exits after it."""
        return self.rank is not None and not self.is_main

    def write(self, event: Any, rank: int | None = None) -> None:
        """Writes an event of this rank, or of the `rank` that the process has in a training."""
        pid = os.getpid()
        if self._file is None or self._file[0] != pid:
            self._file = (pid, EventFile(os.path.join(self.spec.out, f"events-{pid}.jsonl"), self.rank))
        self._file[1].write(event, rank)

    @contextmanager
    def catch_reference_error(self, reference: ReferenceMade) -> Iterator[None]:
        """Catches an exception, and records it as that of the single-process reference."""
        try:
            yield
        except Exception as error:
            self.write(replace(reference, error=message_of(error)[:LONGEST_ERROR]))

    def enable_stack_dumps(self) -> None:
        """Makes the process write its stack on request. To be repeated, because Lightning resets signal handlers."""
        print_stack_when_asked(os.path.join(self.spec.out, f"stack-{os.getpid()}.txt"))

    def enter(self) -> int | None:
        """Starts a call; returns its number, None for a call of neuralforecast itself."""
        self.depth += 1
        if self.depth > 1 or not self.is_main or self.is_reference_run:
            return None
        self.trace.stop()
        number, self._next = self._next, self._next + 1
        os.environ[CALL_VARIABLE] = f"{number}.-1"
        return number

    def leave(self) -> None:
        """Ends the innermost call."""
        self.depth -= 1
        if not self.depth and self.is_main and not self.is_reference_run:
            os.environ.pop(CALL_VARIABLE, None)
            self.trace.start()

    def begin_training(self) -> None:
        """Counts a training of the running call."""
        number, index = self.place()
        os.environ[CALL_VARIABLE] = f"{number}.{index + 1}"

    def place(self) -> tuple[int, int]:
        """The numbers of the running call and of its last training; -1 if there is none."""
        number, _, index = os.environ.get(CALL_VARIABLE, "-1.-1").partition(".")
        return int(number), int(index)


def rank_of(spec: RehearsalSpec) -> int | None:
    """The rank of this process according to its environment; None for torch's launcher."""
    number = os.environ.get("RANK", os.environ.get("LOCAL_RANK"))
    if number is None:
        return None if spec.launcher == "torchrun" else 0
    return int(number)


def recorder_from_environment() -> EventRecorder:
    """The recorder of this process, with the specification that its environment names."""
    with open(os.environ[VARIABLE], encoding="utf-8") as file:
        return EventRecorder(decode(RehearsalSpec, json.load(file)))
