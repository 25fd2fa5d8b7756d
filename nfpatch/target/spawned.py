"""Processes that a fit makes and that end with it, as `ddp_spawn` and notebooks have them: what they observed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .models import trained_model_of
from .observing import LEFT_IN, OBSERVED, digest_of, digest_of_tensors
from .outcomes import Differs


@contextmanager
def trained(forecaster: Any, spec: dict[str, Any], is_watched: bool) -> Iterator[None]:
    """Around a fit: afterwards `OBSERVED` holds the evidence of it, whichever process has it.

    Not `is_watched` is one by this process alone, or without the callback that observes. Raises Differs where the
    processes that trained did not end with the weights that came back from them.
    """
    if not is_watched or spec["reporting"] == spec["world_size"]:  # each process tells for itself
        yield
        model = trained_model_of(forecaster)
        OBSERVED.update(digest=digest_of(model), buffers=digest_of_tensors(model.buffers()))
        return
    folder = tempfile.mkdtemp(dir=spec["out"])
    os.environ[LEFT_IN] = folder
    try:
        yield
    finally:
        del os.environ[LEFT_IN]
        told = reports_in(folder)
        shutil.rmtree(folder)
        if told:
            take_over(told)
    if told and len(told) != spec["world_size"]:
        raise Differs("{} of {} processes have trained".format(len(told), spec["world_size"]))
    digests = [report["digest"] for report in told]
    OBSERVED["digest"] = digest_of(trained_model_of(forecaster))
    if digests != [OBSERVED["digest"]] * spec["world_size"]:
        raise Differs(f"the weights that came back are not those with which all {spec['world_size']} processes ended")


def reports_in(folder: str) -> list[dict[str, Any]]:
    """What the processes of a fit have left behind, by rank."""
    reports = []
    names = [name for name in os.listdir(folder) if name.endswith(".json")]
    for name in sorted(names, key=lambda name: (len(name), name)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            reports.append(json.load(file))
    return reports


def take_over(told: list[dict[str, Any]]) -> None:
    """Adds the evidence of a fit to what was observed before. The first rank tells of all, but for gradients."""
    unused = [name for report in told for name in report["unused"] if name not in OBSERVED["unused"]]
    kept = {name: OBSERVED[name] for name in ("losses", "validated", "unused", "unused_by_torch")}
    OBSERVED.update(told[0])
    OBSERVED["unused_by_torch"] = kept["unused_by_torch"]
    OBSERVED["losses"] = kept["losses"] + told[0]["losses"]
    OBSERVED["losses_of_ranks"] = [report["losses"] for report in told]
    OBSERVED["validated"] = kept["validated"] + told[0]["validated"]
    OBSERVED["unused"] = kept["unused"] + list(dict.fromkeys(unused))
    OBSERVED["points"] = [report["points"] for report in told]
    OBSERVED["in_one_order"] = all(report["batches"] == told[0]["batches"] for report in told)
