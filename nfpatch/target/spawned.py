"""Processes that a fit makes and that end with it, as `ddp_spawn` and notebooks have them: what they observed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .events import Evidence, TrainSpec, decode
from .models import trained_model_of
from .observing import LEFT_IN, Observation, digest_of, digest_of_tensors
from .outcomes import Differs


@contextmanager
def trained(forecaster: Any, spec: TrainSpec, observation: Observation, is_watched: bool) -> Iterator[None]:
    """Around a fit: afterwards `observation` has the evidence of it, whichever process observed it.

    Not `is_watched` is one by this process alone, or without the callback that observes. Raises Differs where the
    processes that trained did not end with the weights that came back from them.
    """
    if not is_watched or spec.reporting == spec.world_size:  # each process reports for itself
        yield
        model = trained_model_of(forecaster)
        observation.evidence.digest = digest_of(model)
        observation.evidence.buffers = digest_of_tensors(model.buffers())
        return
    folder = tempfile.mkdtemp(dir=spec.out)
    os.environ[LEFT_IN] = folder
    try:
        yield
    finally:
        del os.environ[LEFT_IN]
        reports = reports_in(folder)
        shutil.rmtree(folder)
        if reports:
            observation.evidence = combined(observation.evidence, reports)
    if reports and len(reports) != spec.world_size:
        raise Differs(f"{len(reports)} of {spec.world_size} processes have trained")
    digest = digest_of(trained_model_of(forecaster))
    observation.evidence.digest = digest
    if [report.digest for report in reports] != [digest] * spec.world_size:
        raise Differs(f"the weights that came back are not those with which all {spec.world_size} processes ended")


def reports_in(folder: str) -> list[Evidence]:
    """What the processes of a fit have left behind, by rank."""
    reports = []
    names = [name for name in os.listdir(folder) if name.endswith(".json")]
    for name in sorted(names, key=lambda name: (len(name), name)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            reports.append(decode(Evidence, json.load(file)))
    return reports


def combined(before: Evidence, reports: list[Evidence]) -> Evidence:
    """The evidence of a fit after what was observed before. The first rank reports for all, but for gradients."""
    first = reports[0]
    return replace(
        first,
        unused_by_torch=before.unused_by_torch,
        losses=before.losses + first.losses,
        losses_of_ranks=tuple(report.losses for report in reports),
        validated=before.validated + first.validated,
        unused=tuple(dict.fromkeys((*before.unused, *(name for report in reports for name in report.unused)))),
        points=tuple(point for report in reports for point in report.points),
        in_one_order=all(report.batches == first.batches for report in reports),
    )
