"""The run of a rehearsal: the user's script on several CPU processes, watched until all of them have ended."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

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
from nfpatch.engine.logs import place_of, tail_of
from nfpatch.engine.probe import Stack, probe, runnable, versions_in_json
from nfpatch.engine.records import Records
from nfpatch.engine.sources import Source, build_source, is_imported_from, missing_patches, tree_of
from nfpatch.errors import InstallEnvironmentError, UsageError
from nfpatch.patching.install_state import InstallState
from nfpatch.rehearsal.verdict import Known, Stage, stages_of
from nfpatch.target import REHEARSAL
from nfpatch.target.events import Entry, RehearsalSpec, encode

LauncherName = Literal["script", "torchrun"]

TRIALS = 2
# Seconds for which all processes are idle, while one is in a call, until they are said to wait for each other; and the
# share of a processor below which they are called idle; and the seconds between two looks at that.
_PATIENCE = 30.0
_IDLE = 0.02
_SAMPLE = 1.0
# Seconds that what the script has started gets to end by itself after it.
_GRACE = 3.0
_LOG_LINES = 20


@dataclass(frozen=True)
class Script:
    """What is rehearsed: a script, or with `is_module` the name of a module, and its arguments."""

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

    `exit_code` is that of the script, None where nfpatch ended it, `ended` says why then. `tail` are the last lines
    that it printed. `notes` are what is worth knowing and no fault.
    """

    stages: tuple[Stage, ...]
    overrides: tuple[str, ...]
    notes: tuple[str, ...]
    source: Source
    stack: Stack
    launcher: LauncherName
    world_size: int
    exit_code: Optional[int]
    ended: Optional[str]
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
    source: Source = "installed",
    devices: int = 2,
    launcher: LauncherName = "script",
    max_steps: Optional[int] = 4,
    timeout: float = 600.0,
    on_event: Callable[[Entry], None] = lambda event: None,
    output: Optional[Callable[[bytes], None]] = None,
) -> RehearsalReport:
    """Runs a script with `devices` processes in the current folder, and judges what they record.

    Without `max_steps` nothing is shortened. `timeout` is in seconds, for the whole. `on_event` gets each event,
    `output` what the script prints. However the call ends, no process and no file of nfpatch's is left.

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
        records = Records(folder / "events")
        records.folder.mkdir()
        trials = None if max_steps is None else TRIALS
        known = known_patches(found, source)
        functions = tuple(sorted({name for names in known.functions.values() for name in names}))
        specification = RehearsalSpec(str(records.folder), devices, launcher, max_steps, trials, functions)
        (folder / "spec.json").write_text(json.dumps(encode(specification)), encoding="utf-8")
        program = Program(
            python=runnable(install.python),
            arguments=script.program(launcher),
            environment=environment_of(path, folder / "spec.json"),
            folder=Path.cwd(),
            log=folder / "output.log",
            devices=devices if launcher == "torchrun" else None,
        )
        with running(program, records.pids) as launch, _followed(launch.log, output) as follow:
            ended, left = _watch(launch, records, begin + timeout, timeout, on_event, follow)
        records.read()
        _check_source(records.source, expected or install.root)
        stages = stages_of(records, devices, known, ended)
        places = _places_in_script(records) if ended else []
        tail = last_words_of(tail_of(launch.log, _LOG_LINES))
    exit_code = None if ended else _exit_code_of(launch, records)
    return RehearsalReport(
        stages=tuple(stages),
        overrides=tuple(records.overrides),
        notes=(*places, *_notes_of(records, left, tail, raised=exit_code not in (0, None))),
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
    """What is known of the patches for this release and source."""
    useful = missing_patches(found, "released")
    functions = {
        patch.id: [
            f"{file}:{change.where}"
            for file, rewrite in found.variant_of(patch).rewrites.items()
            for change in rewrite.changes
        ]
        for patch in useful
    }
    return Known(missing_patches(found, source), useful, functions)


def last_words_of(printed: str) -> str:
    """The last traceback in what was printed, and what follows; all of it if there is none."""
    before, heading, after = printed.rpartition("Traceback (most recent call last):")
    return before.rpartition("\n")[2] + heading + after if heading else printed


def environment_of(path: Sequence[Path], specification: Path) -> dict[str, str]:
    """The environment of a rehearsed script: the user's, without GPUs, and with what watches first on the path."""
    return {**process_environment(path), "NFPATCH_REHEARSAL": str(specification), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _followed(log: Path, output: Optional[Callable[[bytes], None]]) -> Iterator[Callable[[], None]]:
    """Forwards what the script prints, each time that it is called and at the end."""
    if output is None:
        yield lambda: None
        return
    with log.open("rb") as file:

        def follow() -> None:
            printed = file.read()
            if printed and output is not None:
                output(printed)

        yield follow
        follow()


def _watch(
    launch: Launch,
    records: Records,
    deadline: float,
    timeout: float,
    on_event: Callable[[Entry], None],
    follow: Callable[[], None],
) -> tuple[Optional[str], int]:
    """Waits for the processes: returns why nfpatch ended them, if it did, and how many the script left running."""
    idleness = Idleness(lambda: processor_use(pids_with_token(launch.token)))
    over: list[float] = []  # when the script itself was over

    def look(ended: bool) -> Optional[tuple[Optional[str], int]]:
        living = [each for each in records.processes if each.ended is None and is_alive(each.pid)]
        living = [each for each in living if each.is_in_call or not each.is_within]
        entries = records.read()
        for entry in entries:
            on_event(entry)
        follow()
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
    """How long the processes of a launch have been idle. Linux only; elsewhere they count as busy."""

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
    """Seconds of processor time that processes have used, and whether one of them `is_kept_waiting`.

    It is where it has been stopped, or waits for a processor or a disk.
    """

    seconds: float
    is_kept_waiting: bool


def processor_use(pids: Iterable[int]) -> ProcessorUse:
    """What these processes have used; those that are gone have used nothing. Linux only."""
    ticks, states = 0, set()
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            states.add(fields[0])
    return ProcessorUse(ticks / os.sysconf("SC_CLK_TCK"), bool(states & set("RDTt")))


def _exit_code_of(launch: Launch, records: Records) -> int:
    """The exit code of the first process; 1 where that is 0 and another rank has died."""
    code = launch.process.wait()
    died = [rank for rank in records.ranks.values() if not rank.has_ended]
    return 1 if code == 0 and died else code


def _check_source(file: Optional[str], expected: Path) -> None:
    """Raises InstallEnvironmentError where the script imported another neuralforecast, from this `file`."""
    if file is not None and not is_imported_from(file, expected):
        raise InstallEnvironmentError(
            f"The script imports neuralforecast from {Path(file).parent} instead of {expected}. Name that install "
            "with --python or --site-packages, or rename the folder that hides it."
        )


def _places_in_script(records: Records) -> list[str]:
    """Where each rank was that nfpatch ended between two calls."""
    between = [rank for rank in records.ranks.values() if all(call.is_over for call in rank.calls.values())]
    places = {rank.number: place_of(records.stack_of(rank)) for rank in between if not rank.has_ended}
    return [f"Rank {number} was at {place}." for number, place in sorted(places.items()) if place]


def _notes_of(records: Records, left: int, tail: str, raised: bool) -> Iterator[str]:
    """Remarks that concern no single call; the script may have `raised` an error."""
    if raised and len(records.ranks) == 1 and not any(rank.calls for rank in records.ranks.values()):
        yield "The script ended before its first call, when it was one process still: one process is refused as well."
    shared = shared_files(rank.written for rank in records.ranks.values())
    if shared:
        yield (
            f"More than one rank writes {listed(shared)}: the script does, not neuralforecast. "
            '`if os.environ.get("LOCAL_RANK", "0") == "0":` lets one do it.'
        )
    if "EOFError: EOF when reading a line" in tail:
        yield "The script reads standard input, of which a rehearsal has none to give."
    if left:
        yield f"The script left {pluralize(left, 'process', 'processes')} running; nfpatch ended them."
