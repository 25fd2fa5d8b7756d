"""When the ranks of a rehearsal count as idle: not while they, nfpatch or the machine are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nfpatch.rehearsal.run import Idleness, ProcessorUse, processor_use


class Machine:
    """A clock, and the processor time that the ranks have used by it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.use = ProcessorUse(5.0, is_kept_waiting=False)
        self.idleness = Idleness(lambda: self.use, lambda: self.now)
        self.wait(1)

    def wait(self, seconds: float, poll: float = 0.05) -> float:
        """Polls for a while; for how long the ranks are said to have been idle."""
        end = self.now + seconds
        while self.now < end:
            self.now += poll
            idle = self.idleness.seconds()
        return idle

    def work(self, seconds: float) -> None:
        self.use = ProcessorUse(self.use.seconds + seconds, self.use.is_kept_waiting)


def test_the_idle_time_of_the_ranks_adds_up_until_they_work() -> None:
    machine = Machine()
    assert 25 <= machine.wait(30) <= 30
    machine.work(0.5)
    assert machine.wait(1.2) <= 1
    assert 8 <= machine.wait(10) <= 11


def test_the_time_in_which_the_rehearsal_itself_was_stopped_is_not_idle() -> None:
    machine = Machine()
    machine.wait(10)
    assert machine.wait(3600, poll=3600) <= 11
    assert machine.wait(10) <= 21


def test_ranks_that_are_stopped_or_get_no_processor_are_not_idle() -> None:
    machine = Machine()
    before = machine.wait(10)
    machine.use = ProcessorUse(machine.use.seconds, is_kept_waiting=True)
    assert machine.wait(3600) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_stopped_is_kept_waiting_and_one_that_is_gone_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        use = processor_use([process.pid])
        process.kill()
    assert use.is_kept_waiting
    assert processor_use([process.pid]) == ProcessorUse(0.0, is_kept_waiting=False)
