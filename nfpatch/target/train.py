"""Trains the cases of a proof: a process of a launch, which its launcher starts as `ENTRY train SPEC`.

SPEC is a JSON file, a `TrainSpec` of `events.py`. The process reports facts and judges nothing. It writes each event at
once into `rank-N.jsonl` of the folder `out`, so that a killed process leaves its evidence, and its output into
`rank-N.log`. A case counts as a call: it begins with CallStarted, and ends with CallReturned or CallRaised.

Each machine, called a node, has a folder of its own. The ranks of other nodes have files there too, with the events of
cases that they have finished, and ProcessEnded.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NoReturn

from .events import (
    CallRaised,
    CallReturned,
    CallStarted,
    CaseSpec,
    Entry,
    EventFile,
    ProcessEnded,
    ProcessStarted,
    RanksAssembled,
    ReferenceMade,
    SourceImported,
    StackImported,
    TrainingObserved,
    TrainSpec,
    decode,
)
from .outcomes import Differs, describe_error
from .plain_fit import train
from .process import end_with_parent, redirect_output
from .session import Session
from .source import import_neuralforecast
from .stages import run_stage
from .trainer import backend_for
from .world import RankInfo, World, gather_rank_infos, rank_of

# Seconds that the process outlives the proof's time-out if the runner does not end it.
SELF_DESTRUCTION_DELAY = 30


def run_source(
    tree: str, cases: Sequence[CaseSpec], session: Session, base_path: list[str], events: EventFile
) -> Iterator[list[Entry]]:
    """Imports neuralforecast from one tree and trains its cases, giving what was recorded of each.

    A failed import is the outcome of all of them.
    """
    failure = None
    try:
        package = import_neuralforecast(session.spec.trees[tree], base_path)
        events.write(SourceImported(getattr(package, "__file__", None), tree))
    except Exception as error:
        failure = error
    for case in cases:
        number = session.spec.cases.index(case)
        if failure is not None or not session.spec.sharded or is_taken(number, session.spec):
            session.world.enter(case.id)
            started = events.write(CallStarted(number, case.stage, models=(case.model,)))
            yield [started, *(events.write(event) for event in run_case(case, number, session, failure))]


def run_case(case: CaseSpec, number: int, session: Session, failure: Exception | None) -> list[Any]:
    """Runs a case, unless its source could not be imported, and returns the events of it."""
    session.begin(number)
    end = None
    try:
        if failure is not None:
            raise failure
        (train if case.stage == "fit" else run_stage)(case, session)
    except Differs as difference:
        session.events.append(ReferenceMade(number, differ=str(difference)))
    except Exception as error:
        end = describe_error(error, number)
    observed = TrainingObserved(number, 0, session.observation.training)
    return [observed, *session.events, end or CallReturned(number, tuple(session.frames))]


def is_taken(number: int, spec: TrainSpec) -> bool:
    """Whether this rank takes the case: the first that asks does."""
    try:
        os.close(os.open(os.path.join(spec.out, f"taken-{number}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def events_of_other_nodes(ranks: list[RankInfo], spec: TrainSpec) -> dict[int, EventFile]:
    """The files for the events of the ranks of other nodes, by rank, which the first process of this node writes."""
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
    ranks = gather_rank_infos(world, spec, gpus)
    session = Session(spec, world, backend_for(spec.accelerator, ranks))
    events.write(RanksAssembled(session.backend))
    other_nodes = events_of_other_nodes(ranks, spec)
    for tree, cases in groupby(spec.cases, key=lambda case: case.tree):
        for entries in run_source(tree, list(cases), session, base_path, events):
            by_rank = [entries]
            if not spec.sharded:
                gathered = world.gather([entry.to_json() for entry in entries])
                by_rank = [[Entry.from_json(entry) for entry in each] for each in gathered]
            if any(isinstance(entry.event, (CallRaised, ReferenceMade)) for each in by_rank for entry in each):
                session.scripts.clear()  # all ranks must continue the same scripts
            for number, events_there in other_nodes.items():
                for entry in by_rank[number]:
                    events_there.append(entry)
    for each in (*other_nodes.values(), events):
        each.write(ProcessEnded())
    if not spec.sharded:
        world.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever libraries would do at exit is not part of the proof, and may hang.
    os._exit(0)
