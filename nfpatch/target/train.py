"""Trains the cases of a proof: a process of a launch, which is started as `ENTRY train SPEC` by its launcher.

A launch may span several machines, called nodes. Each has a SPEC of its own, and its own folder of reports, in which
the processes of the other nodes are told of too, as far as they have finished cases.

It reports facts and judges nothing. SPEC is a JSON file:

    trees         {name: folder to put first on sys.path, or null for neuralforecast as it is found}
    cases         [{id, patch, tree, model, loss, exogenous, options, strategy, forecast, like, stage}]; all cases of
                  one tree follow each other. `stage` is "fit", or what a user's script does after it, one of
                  `script_stages.STAGES`. `strategy` is "strict-ddp", "find-unused-ddp" or "single-process"; `forecast`
                  tells how the trained model makes forecasts: as a user asks ("together"), this process "alone", or
                  null; `like` names an earlier case from whose first weights this one starts, and with which its end is
                  compared, or is null
    launcher      what makes the processes: "torchrun", torch's own; "script", Lightning's, which starts this program
                  once more for each process but the first; "spawn" or "fork", for the time of a fit
    accelerator   "cpu" or "gpu"
    devices       how many processes there are on each node
    world_size    how many there must be on all nodes together
    reporting     how many of them run this program, and write reports; one where they are there for a fit only
    max_steps     training steps of each fit; at least two, as DDP complains at the second
    patience      seconds for which a rank that has finished a case waits for the others before it gives the launch up
    timeout       seconds after which the process ends itself, should nobody else have ended it
    dealt         whether each case is trained by one of the ranks only, the first that takes it
    out           folder for rank-N.jsonl (events, below) and rank-N.log (standard output and error)

Each event is one JSON object on one line, written at once, so that a killed process leaves its evidence:

    {event: "hello", pid, python}              first of all
    {event: "stack", torch, lightning, gpus}   the heavy imports are done; how many GPUs torch has, null for "cpu"
    {event: "assembled", backend}              all ranks are there, and train with this backend, "gloo" or "nccl"
    {event: "imported", tree, file}            neuralforecast was imported from `file`
    {event: "started", case}
    {event: "finished", case, outcome, detail, seconds, ...}   with the fields of `no_evidence` beside it
    {event: "done"}                            last of all

Of a rank on another node there are "finished" and "done" only.
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
from typing import Any, Callable, NoReturn

from .observing import OBSERVED, no_evidence
from .outcomes import outcome_of
from .process import end_with_parent, redirect_output
from .script_stages import go_on_after, run
from .source import import_neuralforecast
from .stages import compare, fit, journey_of, predict
from .talk import Events
from .trainer import backend_for
from .world import World, assembled, rank_of

# Seconds that the process outlives the proof's time-out when nobody ends it, which is the runner's task.
SELF_DESTRUCTION_DELAY = 30


def run_case(case: dict[str, Any], action: Callable[[], None], events: Events) -> dict[str, Any]:
    """Runs the action of one case between its two events, and returns what the second says."""
    events.write("started", case=case["id"])
    OBSERVED.clear()
    OBSERVED.update(no_evidence())
    begin = time.monotonic()
    outcome, detail = outcome_of(action)
    seconds = time.monotonic() - begin
    finished = dict(OBSERVED, case=case["id"], outcome=outcome, detail=detail, seconds=seconds)
    events.write("finished", **finished)
    return finished


def run_source(
    tree: str,
    cases: list[dict[str, Any]],
    spec: dict[str, Any],
    world: World,
    backend: str,
    base_path: list[str],
    events: Events,
) -> Iterator[dict[str, Any]]:
    """Imports neuralforecast from one tree and trains its cases, giving what came of each.

    A failed import is the outcome of all of them.
    """
    try:
        package = import_neuralforecast(spec["trees"][tree], base_path)
    except Exception as error:
        failure = error

        def fail() -> NoReturn:
            raise failure

        for case in cases:
            world.enter(case["id"])
            yield run_case(case, fail, events)
        return
    events.write("imported", tree=tree, file=getattr(package, "__file__", None))
    for case in cases:
        if not spec["dealt"] or is_taken(case, spec):
            world.enter(case["id"])
            yield run_case(case, action_of(case, spec, world, backend, package), events)


def action_of(
    case: dict[str, Any], spec: dict[str, Any], world: World, backend: str, package: Any
) -> Callable[[], None]:
    """What there is to do for a case."""
    if case["stage"] == "fit":
        return partial(train, case, spec, backend, package)
    return partial(run, case, spec, package, world)


def is_taken(case: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Whether this rank takes the case: the first that asks does."""
    mark = os.path.join(spec["out"], f"taken-{spec['cases'].index(case)}")
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def train(case: dict[str, Any], spec: dict[str, Any], backend: str, package: Any) -> None:
    """Takes one case through its stages."""
    journey = journey_of(case, spec, backend, package)
    fit(journey)
    if case["forecast"]:
        compare(journey, predict(journey))


def events_of_other_nodes(ranks: list[dict[str, Any]], spec: dict[str, Any]) -> dict[int, Events]:
    """The files of the ranks of other nodes, by rank: this node's first process writes what becomes of them."""
    if spec["launcher"] != "torchrun" or os.environ["LOCAL_RANK"] != "0":
        return {}
    return {
        number: Events(os.path.join(spec["out"], f"rank-{number}.jsonl"))
        for number, rank in enumerate(ranks)
        if rank["node"] != os.environ["GROUP_RANK"]
    }


def main(spec_path: str) -> NoReturn:
    """Runs all cases of the specification in this process, one rank of the launch."""
    with open(spec_path, encoding="utf-8") as file:
        spec = json.load(file)
    base_path = list(sys.path)
    end_with_parent()
    rank_path = os.path.join(spec["out"], f"rank-{rank_of(spec)}")
    redirect_output(rank_path + ".log")
    faulthandler.dump_traceback_later(spec["timeout"] + SELF_DESTRUCTION_DELAY, exit=True)
    events = Events(rank_path + ".jsonl")
    events.write("hello", pid=os.getpid(), python=platform.python_version())

    if spec["launcher"] == "torchrun" and os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        # On a single machine the ranks need no name service: the launcher's answer may be a name nobody resolves.
        os.environ["MASTER_ADDR"] = "127.0.0.1"

    import pytorch_lightning
    import torch

    gpus = None
    if spec["accelerator"] == "gpu":
        gpus = torch.cuda.device_count()
        # Else the last bits of a sum on a GPU differ from fit to fit, and nothing can be compared.
        torch.use_deterministic_algorithms(True, warn_only=True)
    events.write("stack", torch=torch.__version__, lightning=pytorch_lightning.__version__, gpus=gpus)
    world = World(spec)
    ranks = assembled(world, spec, gpus)
    backend = backend_for(spec["accelerator"], ranks)
    events.write("assembled", backend=backend)
    elsewhere = events_of_other_nodes(ranks, spec)
    for tree, cases in groupby(spec["cases"], key=lambda case: case["tree"]):
        for finished in run_source(tree, list(cases), spec, world, backend, base_path, events):
            finished_by = [finished] if spec["dealt"] else world.gather(finished)
            go_on_after(finished_by)
            for number, events_elsewhere in elsewhere.items():
                events_elsewhere.write("finished", **finished_by[number])
    for events_elsewhere in elsewhere.values():
        events_elsewhere.write("done")
    events.write("done")
    if not spec["dealt"]:
        world.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever libraries would do at exit is not part of the proof, and may hang.
    os._exit(0)
