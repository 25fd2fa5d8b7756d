"""Trains the cases of a proof: a process of a launch, which is started as `ENTRY train SPEC` by its launcher.

A launch may span several machines, called nodes. Each has a SPEC of its own, and its own folder of reports, in which
the processes of the other nodes have files too, for the cases that they have finished.

It reports facts and judges nothing. SPEC is a JSON file, a `TrainSpec` of `events.py`. Events go into `rank-N.jsonl` of
the folder `out`, each at once, so that a killed process leaves its evidence, and what is printed into `rank-N.log`:

    ProcessStarted    first of all
    StackImported     the heavy imports are done
    RanksAssembled    all ranks are there
    SourceImported    neuralforecast was imported, for each source tree
    CaseStarted, CaseFinished    for each case
    ProcessEnded      last of all

Of a rank on another node there are CaseFinished and ProcessEnded only.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Callable, NoReturn

from .event_file import EventFile
from .events import (
    CaseFinished,
    CaseSpec,
    CaseStarted,
    ProcessEnded,
    ProcessStarted,
    RankInfo,
    RanksAssembled,
    SourceImported,
    StackImported,
    TrainSpec,
    decode,
    encode,
)
from .outcomes import outcome_of
from .plain_fit import train
from .process import end_with_parent, redirect_output
from .session import Session
from .source import import_neuralforecast
from .stages import run
from .trainer import backend_for
from .world import World, assembled, rank_of

# Seconds that the process outlives the proof's time-out if the runner does not end it.
SELF_DESTRUCTION_DELAY = 30


def run_case(case: CaseSpec, action: Callable[[], None], session: Session, events: EventFile) -> CaseFinished:
    """Runs the action of one case between its two events, and returns the second."""
    events.write(CaseStarted(case.id))
    session.observation.begin()
    session.finished = finished = CaseFinished(case.id)
    begin = time.monotonic()
    finished.outcome, finished.detail, finished.refused = outcome_of(action)
    finished.seconds = time.monotonic() - begin
    finished.training = session.observation.training
    events.write(finished)
    return finished


def run_source(
    tree: str, cases: list[CaseSpec], session: Session, base_path: list[str], events: EventFile
) -> Iterator[CaseFinished]:
    """Imports neuralforecast from one tree and trains its cases, giving what came of each.

    A failed import is the outcome of all of them.
    """
    failure = None
    try:
        session.package = import_neuralforecast(session.spec.trees[tree], base_path)
        events.write(SourceImported(getattr(session.package, "__file__", None), tree))
    except Exception as error:
        failure = error

    def take(case: CaseSpec) -> None:
        if failure is not None:
            raise failure
        (train if case.stage == "fit" else run)(case, session)

    for case in cases:
        if failure is not None or not session.spec.dealt or is_taken(case, session.spec):
            session.world.enter(case.id)
            yield run_case(case, partial(take, case), session, events)


def is_taken(case: CaseSpec, spec: TrainSpec) -> bool:
    """Whether this rank takes the case: the first that asks does."""
    mark = os.path.join(spec.out, f"taken-{spec.cases.index(case)}")
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def events_of_other_nodes(ranks: list[RankInfo], spec: TrainSpec) -> dict[int, EventFile]:
    """The files of the ranks of other nodes, by rank: this node's first process writes what becomes of them."""
    if spec.launcher != "torchrun" or os.environ["LOCAL_RANK"] != "0":
        return {}
    return {
        number: EventFile(os.path.join(spec.out, f"rank-{number}.jsonl"), number)
        for number, rank in enumerate(ranks)
        if rank.node != os.environ["GROUP_RANK"]
    }


def main(spec_path: str) -> NoReturn:
    """Runs all cases of the specification in this process, one rank of the launch."""
    with open(spec_path, encoding="utf-8") as file:
        spec = decode(TrainSpec, json.load(file))
    base_path = list(sys.path)
    end_with_parent()
    rank_path = os.path.join(spec.out, f"rank-{rank_of(spec)}")
    redirect_output(rank_path + ".log")
    faulthandler.dump_traceback_later(spec.timeout + SELF_DESTRUCTION_DELAY, exit=True)
    events = EventFile(rank_path + ".jsonl", rank_of(spec))
    events.write(ProcessStarted(platform.python_version()))

    if spec.launcher == "torchrun" and os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        # On a single machine the ranks need no name service: the launcher's answer may be a name that does not resolve.
        os.environ["MASTER_ADDR"] = "127.0.0.1"

    import pytorch_lightning
    import torch

    gpus = None
    if spec.accelerator == "gpu":
        gpus = torch.cuda.device_count()
        # Else the last bits of a sum on a GPU differ from fit to fit, and nothing can be compared.
        torch.use_deterministic_algorithms(True, warn_only=True)
    events.write(StackImported(torch.__version__, pytorch_lightning.__version__, gpus))
    world = World(spec)
    ranks = assembled(world, spec, gpus)
    session = Session(spec, world, backend_for(spec.accelerator, ranks))
    events.write(RanksAssembled(session.backend))
    elsewhere = events_of_other_nodes(ranks, spec)
    for tree, cases in groupby(spec.cases, key=lambda case: case.tree):
        for finished in run_source(tree, list(cases), session, base_path, events):
            finished_by = [finished]
            if not spec.dealt:
                finished_by = [decode(CaseFinished, each) for each in world.gather(encode(finished))]
            if any(each.outcome != "pass" for each in finished_by):  # the ranks must go on alike
                session.scripts.clear()
            for number, events_elsewhere in elsewhere.items():
                events_elsewhere.write(finished_by[number])
    for events_elsewhere in elsewhere.values():
        events_elsewhere.write(ProcessEnded())
    events.write(ProcessEnded())
    if not spec.dealt:
        world.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever libraries would do at exit is not part of the proof, and may hang.
    os._exit(0)
