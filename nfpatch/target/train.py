"""Trains the cases of a proof: a process of a launch, which is started as `ENTRY train SPEC` by its launcher.

A launch may span several machines, called nodes. Each has a SPEC of its own, and its own folder of reports, in which
the processes of the other nodes have files too, for the cases that they have finished.

It reports facts and judges nothing. SPEC is a JSON file, a `TrainSpec` of `events.py`. Events go into `rank-N.jsonl` of
the folder `out`, each at once, so that a killed process leaves its evidence, and what is printed into `rank-N.log`:

    ProcessStarted    first of all
    StackImported     the heavy imports are done
    RanksAssembled    all ranks are there
    SourceImported    neuralforecast was imported, for each source tree
    CallStarted       for each case, which counts as a call, and when it is over:
    TrainingObserved, FitCompared, ReferenceMade where it is not as in one process, and CallReturned or CallRaised
    ProcessEnded      last of all

Of a rank on another node there are the events of cases that are over, and ProcessEnded.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any, Callable, NoReturn

from .events import (
    CallRaised,
    CallReturned,
    CallStarted,
    CaseSpec,
    Entry,
    EventFile,
    ProcessEnded,
    ProcessStarted,
    RankInfo,
    RanksAssembled,
    ReferenceMade,
    SourceImported,
    StackImported,
    TrainingObserved,
    TrainSpec,
    decode,
)
from .outcomes import Differs, raised_by
from .plain_fit import train
from .process import end_with_parent, redirect_output
from .session import Session
from .source import import_neuralforecast
from .stages import run
from .trainer import backend_for
from .world import World, assembled, rank_of

# Seconds that the process outlives the proof's time-out if the runner does not end it.
SELF_DESTRUCTION_DELAY = 30


def run_case(number: int, action: Callable[[], None], session: Session, events: EventFile) -> list[Entry]:
    """Runs the action of a case, which has begun, and returns what was recorded of it."""
    session.begin(number)
    ending: Any = None
    try:
        action()
    except Differs as difference:
        session.found.append(ReferenceMade(number, differ=str(difference)))
    except Exception as error:
        ending = raised_by(error, number)
    training = TrainingObserved(number, 0, session.observation.training)
    ending = ending or CallReturned(number, tuple(session.frames))
    return [events.write(event) for event in (training, *session.found, ending)]


def run_source(
    tree: str, cases: list[CaseSpec], session: Session, base_path: list[str], events: EventFile
) -> Iterator[list[Entry]]:
    """Imports neuralforecast from one tree and trains its cases, giving what was recorded of each.

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
            number = session.spec.cases.index(case)
            begun = events.write(CallStarted(number, case.stage, models=(case.model,)))
            yield [begun, *run_case(number, partial(take, case), session, events)]


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
    events.write(ProcessStarted())

    if spec.launcher == "torchrun" and os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        # On a single machine the ranks need no name service: the launcher's answer may be a name that does not resolve.
        os.environ["MASTER_ADDR"] = "127.0.0.1"

    import pytorch_lightning  # noqa: F401 (it takes a while)
    import torch

    gpus = None
    if spec.accelerator == "gpu":
        gpus = torch.cuda.device_count()
        # Else the last bits of a sum on a GPU differ from fit to fit, and nothing can be compared.
        torch.use_deterministic_algorithms(True, warn_only=True)
    events.write(StackImported(gpus))
    world = World(spec)
    ranks = assembled(world, spec, gpus)
    session = Session(spec, world, backend_for(spec.accelerator, ranks))
    events.write(RanksAssembled(session.backend))
    elsewhere = events_of_other_nodes(ranks, spec)
    for tree, cases in groupby(spec.cases, key=lambda case: case.tree):
        for entries in run_source(tree, list(cases), session, base_path, events):
            of_ranks = [entries]
            if not spec.dealt:
                gathered = world.gather([entry.to_json() for entry in entries])
                of_ranks = [[Entry.from_json(entry) for entry in each] for each in gathered]
            if any(isinstance(entry.event, (CallRaised, ReferenceMade)) for each in of_ranks for entry in each):
                session.scripts.clear()  # the ranks must go on alike
            for number, events_elsewhere in elsewhere.items():
                for entry in of_ranks[number]:
                    events_elsewhere.append(entry)
    for events_elsewhere in elsewhere.values():
        events_elsewhere.write(ProcessEnded())
    events.write(ProcessEnded())
    if not spec.dealt:
        world.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever libraries would do at exit is not part of the proof, and may hang.
    os._exit(0)
