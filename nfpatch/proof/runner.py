"""Trains the cases of a proof in the target interpreter, follows the ranks, and judges what they record.

All cases of a launcher run in one launch, because importing torch, Lightning and ray is most of the cost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional, get_args

from nfpatch.catalog import specifier_contains
from nfpatch.console import reasons_to_json
from nfpatch.engine.facts import Call, Process
from nfpatch.engine.launch import (
    ONE_NODE,
    Launch,
    Nodes,
    Program,
    check_disk_space,
    describe_exit,
    is_alive,
    request_stacks,
    running,
    temporary_folder,
    training_environment,
)
from nfpatch.engine.logs import entries_in, frames_of_dump, tail_of, text_of
from nfpatch.engine.probe import Stack, probe, runnable, versions_in_json
from nfpatch.engine.sources import Source, is_imported_from
from nfpatch.errors import InstallEnvironmentError
from nfpatch.proof.verdict import CaseResult, ProofCase, result_of_calls, result_without_calls
from nfpatch.target import ENTRY
from nfpatch.target.events import (
    CaseSpec,
    Entry,
    ProcessStarted,
    RanksAssembled,
    SourceImported,
    StackImported,
    TrainSpec,
    encode,
)

# TorchDistributor came with Spark 3.4
FIRST_PYSPARK = "pyspark>=3.4,<4"
# DDP refuses unused parameters at the second step; the third shows that training continues.
MAX_STEPS = 3
# Seconds for which a rank that has finished a case waits for the others.
PATIENCE = 30.0
# Seconds that torch's launcher gets to report a worker that exited.
_REPORT_TIME = 5.0
# Seconds that the launchers of several nodes get to close their rendezvous.
_CLOSING_TIME = 20.0
_LOG_LINES = 8


@dataclass(frozen=True)
class ProofEvent:
    """A step of a proof, to show its progress.

    Every case finishes exactly once, with its result; a case that was not reached does not start.
    """

    kind: Literal["launched", "started", "finished"]
    case: ProofCase | None = None
    result: CaseResult | None = None


@dataclass(frozen=True)
class Coverage:
    """The patches in question that a proof does not cover, with the reasons.

    `unproved` are applied, needed or named patches; those that were named are `missing`. `not_needed` are named patches
    that this release does not need, `skipped` those that `--skip` leaves out.
    """

    unproved: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    not_needed: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProofReport:
    """The result of a proof.

    `world_size` and `backend` are what torch reported, None if no case trained; `stack` is None if there was nothing to
    prove. `accelerator` and `nodes`, the number of machines, are those requested.
    """

    stack: Stack | None
    world_size: int | None
    backend: str | None
    seconds: float
    cases: tuple[CaseResult, ...]
    accelerator: str = "cpu"
    nodes: int = 1
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def ok(self) -> bool:
        """Whether every case has the expected result, and the cases cover the named patches, or any at all."""
        covers_any = bool(self.proved) or self.shows_bugs_only or not self.coverage.unproved
        return covers_any and not self.coverage.missing and all(case.ok for case in self.cases)

    @property
    def patches(self) -> tuple[str, ...]:
        """The ids of the patches in question, in the order of the cases; those without a case come last."""
        shown = [case.patch for case in self.cases if case.patch is not None]
        return tuple(dict.fromkeys([*shown, *self.coverage.unproved]))

    @property
    def proved(self) -> tuple[str, ...]:
        """The ids of the patches whose cases all have the expected result, not only those of the released source."""
        failed = {case.patch for case in self.cases if not case.ok}
        shown = dict.fromkeys(case.patch for case in self.cases if case.patch is not None and case.source != "released")
        return tuple(patch_id for patch_id in shown if patch_id not in failed)

    @property
    def shows_bugs_only(self) -> bool:
        """Whether the released source alone was run."""
        return bool(self.cases) and all(case.source == "released" for case in self.cases)

    def to_json(self) -> dict[str, object]:
        """The report as the JSON of `nfpatch verify`, but for the key "neuralforecast", which is the caller's."""
        return {
            "ok": self.ok,
            **versions_in_json(self.stack),
            "world_size": self.world_size,
            "backend": self.backend,
            "accelerator": self.accelerator,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "proved": list(self.proved),
            "unproved": reasons_to_json(self.coverage.unproved),
            "not_needed": reasons_to_json(self.coverage.not_needed),
            "skipped": reasons_to_json(self.coverage.skipped),
            "cases": [case.to_json() for case in self.cases],
        }


@dataclass(frozen=True)
class RunOptions:
    """How cases are run: by `devices` processes on each of the `nodes`, on the `accelerator` "cpu" or "gpu".

    `timeout` is in seconds, for all of them. Each case is trained by all processes, or if they are `sharded`, by one of
    them. If a process crashes, the cases that were not reached are errors; a `persistent` run launches them again.
    """

    devices: int = 2
    accelerator: str = "cpu"
    timeout: float = 300.0
    nodes: Nodes = ONE_NODE
    max_steps: int = MAX_STEPS
    sharded: bool = False
    persistent: bool = False


def run_proof(
    python: Path,
    cases: Sequence[ProofCase],
    trees: Mapping[str, Path | None],
    options: RunOptions = RunOptions(),
    extra_path: Sequence[Path] = (),
    on_event: Callable[[ProofEvent], None] = lambda event: None,
) -> ProofReport:
    """Trains the cases in the interpreter `python`, in one launch for each launcher, and judges them.

    Each of several nodes calls this for its own processes, and judges what all of them report.

    `trees` has, for each `tree` of a case, the folder of its `neuralforecast/`, or None for the one that the
    interpreter imports with `extra_path` first on its path. However the call ends, no process and no temporary file is
    left.

    Raises InstallEnvironmentError if the interpreter cannot run, lacks torch or Lightning, or finds no GPU for a proof
    on GPUs, and if the temporary folder is full.
    """
    if not cases or len({case.id for case in cases}) != len(cases):
        raise ValueError("a proof needs cases, and each an id of its own")
    begin = time.monotonic()
    stack = probe(python, extra_path)
    if any(case.launcher == "fork" for case in cases):
        check_can_fork(stack)
    if any(case.launcher == "spark" for case in cases):
        check_can_run_spark(stack, python)
    finished: dict[str, CaseResult] = {}
    while len(finished) < len(cases):
        left = [case for case in cases if case.id not in finished]
        left = [case for case in left if case.launcher == left[0].launcher]
        with temporary_folder() as folder:
            proof = _Proof(left, trees, stack, options, folder, on_event)
            with running(proof.program(python, extra_path), proof.workers) as launch:
                proof.watch(launch, begin + options.timeout)
        finished.update(proof.results)
    results = tuple(finished[case.id] for case in cases)
    distributed = (result for result in results if result.strategy != "single-process" and result.expect != "wrong")
    trained = next((result for result in distributed if result.world_size is not None), None)
    return ProofReport(
        stack=stack,
        world_size=trained.world_size if trained else None,
        backend=trained.backend if trained else None,
        seconds=time.monotonic() - begin,
        cases=results,
        accelerator=options.accelerator,
        nodes=options.nodes.nnodes,
    )


@dataclass
class ReportingRank(Process):
    """One process of a launch and what it has recorded so far; its calls are cases.

    Of a process on another node, only its finished cases and its exit are known.
    """

    number: int = 0
    folder: Path = Path()
    gpus: int | None = None
    backend: str | None = None  # of the process group, as the ranks agreed
    imported: dict[str, str | None] = field(default_factory=dict)  # tree: the file of its neuralforecast
    _read: int = 0  # bytes

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.folder / f"rank-{self.number}.log"

    def read(self) -> None:
        """Reads the events that were written since the last call."""
        path = self.folder / f"rank-{self.number}.jsonl"
        entries, self._read = entries_in(path, self._read) if path.exists() else ([], self._read)
        for entry in entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Records one event."""
        event = entry.event
        if isinstance(event, ProcessStarted):
            self.pid = entry.pid
        elif isinstance(event, StackImported):
            self.gpus = event.gpus
        elif isinstance(event, RanksAssembled):
            self.backend = event.backend
        elif isinstance(event, SourceImported):
            self.imported[event.tree] = event.file
        else:
            super().take(entry)

    def place(self) -> str | None:
        """The innermost frames of the last stack that the process has printed; None if it has printed none."""
        frames = frames_of_dump(text_of(self.log))
        return ", ".join(f"{file}:{line} in {name}" for file, line, name in frames[:3]) or None


@dataclass
class _Proof:
    """The launch of the cases of one launcher: the ranks, and the results so far."""

    cases: Sequence[ProofCase]
    trees: Mapping[str, Path | None]
    stack: Stack
    options: RunOptions
    folder: Path
    on_event: Callable[[ProofEvent], None]
    started: set[str] = field(default_factory=set)
    results: dict[str, CaseResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.launcher = self.cases[0].launcher
        # Each tree is imported once, so its cases follow each other, after those that they are compared with. With
        # Lightning's own launcher the control comes first, because it starts the other processes and does not crash.
        sources, is_script = get_args(Source), self.launcher == "script"
        self.cases = sorted(
            self.cases, key=lambda case: (sources.index(case.source), case.tree, is_script and case.patch is not None)
        )
        self.trees = {case.tree: self.trees[case.tree] for case in self.cases}
        self.reports = self.folder / "reports"
        self.world_size = self.options.nodes.nnodes * self.options.devices
        reporting = self.world_size if self.launcher in ("torchrun", "script") else 1
        self.ranks = [ReportingRank(number=number, folder=self.reports) for number in range(reporting)]

    def program(self, python: Path, extra_path: Sequence[Path]) -> Program:
        """The program of the launch, whose specification this writes."""
        temporary, workplace, specification = (self.folder / name for name in ("tmp", "cwd", "spec.json"))
        for made in (self.reports, temporary, workplace):
            made.mkdir()
        specification.write_text(json.dumps(encode(self._specification())), encoding="utf-8")
        return Program(
            python=runnable(python),
            arguments=[str(ENTRY), "train", str(specification)],
            environment=training_environment(extra_path, self.options.accelerator, temporary),
            folder=workplace,
            log=self.folder / "launcher.log",
            devices=self.options.devices if self.launcher == "torchrun" else None,
            nodes=self.options.nodes,
        )

    def workers(self) -> list[int]:
        """The ids of the processes that may still be running."""
        return [rank.pid for rank in self.ranks if rank.pid and not rank.ended]

    def _specification(self) -> TrainSpec:
        return TrainSpec(
            trees={name: None if tree is None else os.path.abspath(tree) for name, tree in self.trees.items()},
            cases=tuple(
                CaseSpec(
                    id=case.id,
                    model=case.case.model,
                    loss=case.case.loss,
                    tree=case.tree,
                    patch=case.patch,
                    exogenous=tuple(case.case.exogenous),
                    options=dict(case.case.options),
                    strategy=case.strategy,
                    forecast=case.forecast,
                    like=case.like,
                    stage=case.case.stage,
                )
                for case in self.cases
            ),
            launcher=self.launcher,
            accelerator=self.options.accelerator,
            devices=self.options.devices,
            world_size=self.world_size,
            reporting=len(self.ranks),
            max_steps=self.options.max_steps,
            sharded=self.options.sharded,
            patience=PATIENCE,
            timeout=self.options.timeout,
            out=str(self.reports),
        )

    def watch(self, launch: Launch, deadline: float) -> None:
        """Follows the launch until it ends; afterwards every case has its result."""
        self.on_event(ProofEvent("launched"))

        def look(ended: bool) -> Optional[bool]:
            dead = [rank for rank in self.ranks if rank.pid and not is_alive(rank.pid)]
            self._read_reports()
            if all(rank.ended for rank in self.ranks):
                self._wait_for_launcher(launch, deadline)
            elif ended or any(not rank.ended for rank in dead):
                self._conclude("error", *self._exit_reason(launch))
            elif time.monotonic() > deadline:
                self._conclude("timeout", self._timeout_reason())
            else:
                return None
            return True

        launch.wait_until(look)

    def _wait_for_launcher(self, launch: Launch, deadline: float) -> None:
        """Lets the launcher of a node exit by itself: the other nodes may depend on it."""
        if self.options.nodes.nnodes > 1:
            with contextlib.suppress(subprocess.TimeoutExpired):
                launch.process.wait(max(0.0, min(_CLOSING_TIME, deadline - time.monotonic())))

    def _timeout_reason(self) -> str:
        when = f"at the timeout of {self.options.timeout:g} s"
        if self.options.nodes.nnodes == 1 or any(rank.pid for rank in self.ranks):
            return f"not finished {when}"
        return (
            f"the {self.options.nodes.nnodes} nodes had not all joined {self.options.nodes.rdzv_endpoint} {when}. Run "
            "the same command on each of them, or raise --timeout"
        )

    def _read_reports(self) -> None:
        """Reads what the ranks have recorded, and judges the cases that all of them have finished."""
        for rank in self.ranks:
            rank.read()
            if rank.gpus == 0:
                raise InstallEnvironmentError(
                    f"torch {self.stack.torch} finds no GPU on this machine. Train on the CPU (--accelerator cpu, the "
                    "default), or let torch see a GPU: this requires a torch that was built with CUDA, a driver "
                    "(`nvidia-smi` lists what it sees), and a CUDA_VISIBLE_DEVICES that does not hide it."
                )
        for number, case in enumerate(self.cases):
            if case.id not in self.started and any(number in rank.calls for rank in self.ranks):
                self.started.add(case.id)
                self.on_event(ProofEvent("started", case))
            over = self._finished_calls(number)
            if case.id not in self.results and len(over) == (1 if self.options.sharded else len(self.ranks)):
                self._finish(case, self._judge(case, [call for _, call in over]))

    def _finished_calls(self, number: int) -> list[tuple[int, Call]]:
        """The records of a case of the ranks that have finished it, with their numbers."""
        calls = ((rank.number, rank.calls.get(number)) for rank in self.ranks)
        return [(rank, call) for rank, call in calls if call is not None and call.is_over]

    def _finish(self, case: ProofCase, result: CaseResult) -> None:
        self.results[case.id] = result
        self.on_event(ProofEvent("finished", case, result))

    def _judge(self, case: ProofCase, calls: Sequence[Call]) -> CaseResult:
        """The result of a case that all ranks have finished."""
        tree = self.trees[case.tree] or self.stack.neuralforecast
        for rank in self.ranks:
            file = rank.imported.get(case.tree)
            if tree is not None and case.tree in rank.imported and not is_imported_from(file, tree):
                wrong = f"rank {rank.number} imported neuralforecast from {file} instead of {tree}"
                return result_without_calls(case, "error", wrong)
        # On GPUs the ranks agree on the backend, as only they know how many there are.
        agreed = (rank.backend for rank in self.ranks if rank.backend)
        backend = "gloo" if self.options.accelerator == "cpu" else next(agreed)
        return result_of_calls(case, calls, self.world_size, backend)

    def _exit_reason(self, launch: Launch) -> tuple[str, int | None]:
        """Why a launch, or one of its processes, exited early, and the rank that did, if it is known.

        Kills the others, for which the launcher would wait.
        """
        launch.kill_workers(rank.pid for rank in self.ranks if rank.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launch.process.wait(_REPORT_TIME)
        self._read_reports()
        check_disk_space(self.folder)
        failure = launch.first_failure()
        who, log, code = "torch's launcher", launch.log, launch.process.poll()
        rank = None if self.launcher == "torchrun" else self.ranks[0]
        if failure is not None:
            code, local_rank, pid = failure
            who, rank = f"process {local_rank} of this node", next((r for r in self.ranks if r.pid == pid), None)
        if rank is not None:  # else it exited before it wrote its rank
            who, log = f"rank {rank.number}", rank.log
        words = f"{who} {describe_exit(code)}\n{tail_of(log, _LOG_LINES)}".rstrip()
        return words, None if rank is None else rank.number

    def _conclude(self, outcome: Literal["error", "timeout"], detail: str, crashed: int | None = None) -> None:
        """Gives every case without a result this outcome; `crashed` is the rank that has exited early, if it is known.

        A persistent proof does so only for the cases in which a process crashed, as the others are launched again. If
        it crashed between two cases, all others are launched again, unless none was finished.
        """
        is_final = not self.options.persistent or outcome == "timeout"
        fatal = set() if is_final else self._unfinished(crashed) or self._unfinished(None)
        if not is_final and not fatal and self.results:
            return
        detail += self._places() if outcome == "timeout" else self._places_printed()
        not_reached = "not reached" if self.started - set(self.results) else f"not reached: {detail}"
        for number, case in enumerate(self.cases):
            if case.id in self.results or (fatal and number not in fatal):
                continue
            if case.id not in self.started:
                self._finish(case, result_without_calls(case, outcome, not_reached))
                not_reached = "not reached"
                continue
            errors = [f"\nrank {rank} had finished with: {call.detail}" for rank, call in self._finished_calls(number)]
            self._finish(case, result_without_calls(case, outcome, detail + "".join(errors)))

    def _unfinished(self, rank: int | None) -> set[int]:
        """The numbers of the cases that a rank, or if it is None any rank, has begun and not finished."""
        ranks = self.ranks if rank is None else [self.ranks[rank]]
        return {number for each in ranks for number, call in each.calls.items() if not call.is_over}

    def _places(self) -> str:
        """Where the processes that have not finished are, if they respond."""
        is_each_a_rank = len(self.ranks) == self.world_size
        asked = {
            f"rank {rank.number}" if is_each_a_rank else "the script": rank
            for rank in self.ranks
            if rank.pid and not rank.ended
        }
        # Processes that exist only during a fit create an empty file, with the name of their log and their process id
        for mark in sorted(self.reports.glob("*/rank-*.log.*")):
            number = int(re.findall(r"\d+", mark.name)[0])
            asked[f"rank {number} of the fit"] = ReportingRank(int(mark.suffix[1:]), number=number, folder=mark.parent)
        request_stacks(rank.pid for rank in asked.values())
        return "".join(f"\n{who} was at {rank.place() or 'an unknown place'}" for who, rank in asked.items())

    def _places_printed(self) -> str:
        """Where processes that have not finished were when another rank made them print their stacks."""
        places = {rank.number: rank.place() for rank in self.ranks if not rank.ended}
        return "".join(f"\nrank {number} was at {place}" for number, place in places.items() if place)


def check_can_fork(stack: Stack) -> None:
    """Raises InstallEnvironmentError if Lightning lacks the strategy that forks, `ddp_notebook` (PR 13744)."""
    if specifier_contains("<1.7", stack.lightning):
        raise InstallEnvironmentError(
            f"Lightning {stack.lightning} cannot train in forked processes: `ddp_notebook` came with 1.7. Prove by "
            "another --launcher."
        )


def check_can_run_spark(stack: Stack, python: Path) -> None:
    """Raises InstallEnvironmentError if anything is missing that neuralforecast needs on Spark."""
    missing = [name for name, version in (("pyspark", stack.pyspark), ("fugue", stack.fugue)) if version is None]
    if missing:
        needed = " ".join(f"'{FIRST_PYSPARK}'" if name == "pyspark" else name for name in missing)
        raise InstallEnvironmentError(
            f"{python} has no {' and no '.join(missing)}, without which neuralforecast cannot train on Spark: "
            f"`{python} -m pip install {needed}`."
        )
    java = Path(os.environ["JAVA_HOME"], "bin", "java") if "JAVA_HOME" in os.environ else "java"
    if shutil.which(java) is None:
        raise InstallEnvironmentError(
            f"There is no Java to start Spark with, {java}: install one that pyspark {stack.pyspark} runs on (17 does "
            "for 3.5), and let JAVA_HOME name its folder or PATH have its bin."
        )
