"""The run of a rehearsal: the user's script on several CPU processes, watched until all of them have ended."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nfpatch.console import pluralize
from nfpatch.engine.checks.shared_files import shared_files
from nfpatch.engine.facts import listed
from nfpatch.engine.launch import (
    Launch,
    Program,
    is_alive,
    pids_with_token,
    process_environment,
    request_stacks,
    running,
    temporary_folder,
)
from nfpatch.engine.logs import tail_of
from nfpatch.engine.probe import Stack, probe, runnable, versions_in_json
from nfpatch.engine.sources import Source, build_source, is_imported_from, missing_patches, tree_of
from nfpatch.errors import InstallEnvironmentError, UsageError
from nfpatch.patching.install_state import InstallState
from nfpatch.rehearsal.records import Records
from nfpatch.rehearsal.verdict import Known, Stage, stages_of
from nfpatch.target import REHEARSAL
from nfpatch.target.events import Entry, RehearsalSpec, encode

LauncherName = Literal["script", "torchrun"]

TRIALS = 2
# Seconds for which all processes are idle, while one is in a call, until they count as waiting for each other; the
# share of a processor below which they count as idle; and the seconds between two samples of that.
_PATIENCE = 30.0
_IDLE = 0.02
_SAMPLE = 1.0
# Seconds after the end of the script in which processes that it has started may exit by themselves.
_GRACE = 3.0
_LOG_LINES = 20


@dataclass(frozen=True)
class Script:
    """What is rehearsed: a script, or if it `is_module` the name of a module, and its arguments."""

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def program(self, launcher: LauncherName) -> list[str]:
        """What follows the interpreter, or torch's launcher, on the command line."""
        if not self.is_module:
            return [self.name, *self.arguments]
        return ["--module" if launcher == "torchrun" else "-m", self.name, *self.arguments]


@dataclass(frozen=True)
class RehearsalReport:
    """The result of a rehearsal.

    `exit_code` is that of the first process, or 1 if that is 0 and another rank crashed. It is None if nfpatch ended
    the script, and `ended` is the reason. `tail` has the last lines that the script printed. `notes` are remarks that
    are no findings.
    """

    stages: tuple[Stage, ...]
    overrides: tuple[str, ...]
    notes: tuple[str, ...]
    source: Source
    stack: Stack
    launcher: LauncherName
    world_size: int
    exit_code: int | None
    ended: str | None
    tail: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the script completed, and each of its calls matched the single-process reference on all ranks."""
        return bool(self.stages) and all(stage.ok for stage in self.stages) and self.exit_code == 0

    @property
    def patches(self) -> tuple[str, ...]:
        """The ids of the patches that fix what was found."""
        return tuple(dict.fromkeys(patch for stage in self.stages for patch in stage.patches))

    def to_json(self) -> dict[str, object]:
        """The report as the JSON of `nfpatch rehearse`, but for the key "neuralforecast", which is the caller's."""
        return {
            "ok": self.ok,
            **versions_in_json(self.stack),
            "source": self.source,
            "launcher": self.launcher,
            "world_size": self.world_size,
            "exit_code": self.exit_code,
            "ended": self.ended,
            "seconds": round(self.seconds, 3),
            "overrides": list(self.overrides),
            "notes": list(self.notes),
            "stages": [stage.to_json() for stage in self.stages],
        }


def rehearse(
    found: InstallState,
    script: Script,
    source: Source,
    devices: int,
    launcher: LauncherName,
    max_steps: int | None,
    timeout: float,
    on_event: Callable[[Entry], None],
    output: Callable[[bytes], None] | None,
) -> RehearsalReport:
    """Runs a script with `devices` processes in the current folder, and judges what they record.

    Without `max_steps` nothing is shortened. `timeout` is in seconds, for the whole script. `on_event` receives each
    event, `output` what the script prints. However the call ends, no process and no file of nfpatch is left.

    Raises UsageError where there is no such script, RefusedError where the source cannot be computed, and
    InstallEnvironmentError where the interpreter cannot run it or does not find that source.
    """
    begin = time.monotonic()
    install = found.install
    if not script.is_module and not Path(script.name).is_file():
        raise UsageError(
            f"There is no script {script.name}. Name the one that you start with `python`, or a module: -m."
        )
    tree = tree_of(found, source)
    stack = probe(install.python, install.extra_path)
    with temporary_folder() as folder:
        expected = build_source(install, tree, folder / "source") or install.tree
        path = [REHEARSAL, *([] if expected is None else [expected]), *install.extra_path]
        variables = {"NFPATCH_REHEARSAL": str(folder / "spec.json"), "PYTHONUNBUFFERED": "1"}
        records = Records(folder / "events")
        records.folder.mkdir()
        trials = None if max_steps is None else TRIALS
        known = known_patches(found, source)
        specification = RehearsalSpec(
            str(records.folder), devices, launcher, max_steps, trials, patched=tuple(sorted(known.by_function))
        )
        (folder / "spec.json").write_text(json.dumps(encode(specification)), encoding="utf-8")
        program = Program(
            python=runnable(install.python),
            arguments=script.program(launcher),
            environment={**process_environment(path), **variables},
            folder=Path.cwd(),
            log=folder / "output.log",
            devices=devices if launcher == "torchrun" else None,
        )
        with running(program, lambda: [each.pid for each in records.processes]) as launch, launch.log.open("rb") as log:

            def forward() -> None:
                if output is not None:
                    output(log.read())

            ended, left = _watch(launch, records, begin + timeout, timeout, on_event, forward)
            forward()
        records.read()
        _check_source(records.source, expected or install.root)
        stages = stages_of(records, devices, known, ended)
        tail = last_words_of(tail_of(launch.log, _LOG_LINES))
        exit_code = None if ended else launch.process.wait()
        if exit_code == 0 and any(rank.ended is None for rank in records.ranks.values()):
            exit_code = 1  # a rank did not exit by itself
        notes = tuple(notes_of(records, launcher, exit_code, left, tail))
    return RehearsalReport(
        stages=tuple(stages),
        overrides=tuple(records.overrides),
        notes=notes,
        source=source,
        stack=stack,
        launcher=launcher,
        world_size=devices,
        exit_code=exit_code,
        ended=ended,
        tail=tail,
        seconds=time.monotonic() - begin,
    )


def known_patches(found: InstallState, source: Source) -> Known:
    """The patches for this release and source."""
    useful = missing_patches(found, "released")
    by_function: dict[str, list[str]] = {}
    for patch in useful:
        for file, rewrite in found.variant_of(patch).rewrites.items():
            for function in dict.fromkeys(change.where for change in rewrite.changes):
                by_function.setdefault(f"{file}:{function}", []).append(patch.id)
    return Known(missing_patches(found, source), useful, by_function)


def last_words_of(printed: str) -> str:
    """The last traceback in what was printed, and what follows; all of it if there is none."""
    before, heading, after = printed.rpartition("Traceback (most recent call last):")
    return before.rpartition("\n")[2] + heading + after if heading else printed


def _watch(
    launch: Launch,
    records: Records,
    deadline: float,
    timeout: float,
    on_event: Callable[[Entry], None],
    forward_output: Callable[[], None],
) -> tuple[str | None, int]:
    """Waits for the processes. Returns why nfpatch ended them, None if it did not, and how many the script left."""
    idleness = Idleness(lambda: processor_use(pids_with_token(launch.token)))
    over: list[float] = []  # when the script itself had ended

    def look(ended: bool) -> tuple[str | None, int] | None:
        living = [each for each in records.processes if each.ended is None and is_alive(each.pid)]
        living = [each for each in living if each.is_in_call or not each.is_within]
        entries = records.read()
        for entry in entries:
            on_event(entry)
        forward_output()
        if ended and not living and not entries:
            others = pids_with_token(launch.token) if sys.platform == "linux" else set()
            left = len(others - {each.pid for each in records.processes if not each.is_within})
            over.append(time.monotonic())
            if not left or time.monotonic() - over[0] > _GRACE:
                return None, left
        in_call = any(each.is_in_call for each in living)
        if time.monotonic() > deadline:
            reason = f"ended by the timeout of {timeout:g} s"
        elif sys.platform == "linux" and idleness.seconds() > _PATIENCE and in_call:
            reason = f"no process did anything for {_PATIENCE:g} s"
        else:
            return None
        request_stacks(each.pid for each in living)
        return reason, 0

    return launch.wait_until(look)


class Idleness:
    """Measures how long the processes of a launch have been idle. Linux only."""

    def __init__(self, look: Callable[[], ProcessorUse], clock: Callable[[], float] = time.monotonic) -> None:
        self._look, self._clock = look, clock
        self._looked = clock()
        self._used = self._idle = 0.0

    def seconds(self) -> float:
        """Seconds in which all of them could have used the processor, and none did. Sampled once a second.

        A sample counts as a second at most: between two that are further apart, nfpatch or the machine was stopped.
        """
        now = self._clock()
        passed = now - self._looked
        if passed >= _SAMPLE:
            use = self._look()
            if abs(use.seconds - self._used) > _IDLE * passed:
                self._idle = 0.0
            elif not use.is_kept_waiting:
                self._idle += _SAMPLE
            self._used, self._looked = use.seconds, now
        return self._idle


@dataclass(frozen=True)
class ProcessorUse:
    """Seconds of processor time that processes have used.

    `is_kept_waiting` if one of them has been stopped, or waits for a processor or a disk.
    """

    seconds: float
    is_kept_waiting: bool


def processor_use(pids: Iterable[int]) -> ProcessorUse:
    """The processor time of these processes, without those that have exited. Linux only."""
    ticks, states = 0, set()
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            states.add(fields[0])
    return ProcessorUse(ticks / os.sysconf("SC_CLK_TCK"), bool(states & set("RDTt")))


def _check_source(file: str | None, expected: Path) -> None:
    """Raises InstallEnvironmentError where the script imported another neuralforecast, from this `file`."""
    if file is not None and not is_imported_from(file, expected):
        raise InstallEnvironmentError(
            f"The script imports neuralforecast from {Path(file).parent} instead of {expected}. Name that install "
            "with --python or --site-packages, or rename the folder that hides it."
        )


def notes_of(
    records: Records, launcher: LauncherName, exit_code: int | None = 0, left: int = 0, tail: str = ""
) -> Iterator[str]:
    """Remarks that concern no single call."""
    for number, rank in sorted(records.ranks.items()):
        place = records.place(rank)
        if exit_code is None and place and rank.ended is None and all(call.is_over for call in rank.calls):
            yield f"Rank {number} was at {place}."
    if exit_code and len(records.ranks) == 1 and not any(rank.calls for rank in records.ranks.values()):
        yield "The script failed before its first call, while it was a single process, so a single process fails too."
    others = [process for number, rank in records.ranks.items() if number for process in rank.processes.values()]
    if launcher == "script" and any(process.is_within and process.calls for process in others):
        yield (
            "The script itself starts processes that call neuralforecast. Lightning starts each other rank by running "
            "the whole script again, which starts all of them again. Train in the script's own process, or start a "
            "script of its own for each model (subprocess)."
        )
    shared = shared_files(rank.changed_by_script for rank in records.ranks.values())
    if shared:
        yield (
            f"More than one rank writes {listed(shared)}: the script does, not neuralforecast. "
            '`if os.environ.get("LOCAL_RANK", "0") == "0":` lets one do it.'
        )
    if "EOFError: EOF when reading a line" in tail:
        yield "The script reads standard input, which is empty in a rehearsal."
    if left:
        yield f"The script left {pluralize(left, 'process', 'processes')} running; nfpatch ended them."
