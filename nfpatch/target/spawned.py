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

from .events import Training, TrainSpec, decode
from .models import trained_model_of
from .observing import LEFT_IN, Observation, digest_of, digest_of_tensors
from .outcomes import Differs


@contextmanager
def trained(forecaster: Any, spec: TrainSpec, observation: Observation, is_watched: bool) -> Iterator[None]:
    """Around a fit: afterwards `observation` has the training, whichever process observed it.

    Not `is_watched` is one by this process alone, or without the callback that observes. Raises Differs where the
    processes that trained did not end with the weights that came back from them.
    """
    observation.of_ranks = []
    if not is_watched or spec.reporting == spec.world_size:  # each process reports for itself
        yield
        model = trained_model_of(forecaster)
        observation.training.weights = digest_of(model)
        observation.training.buffers = digest_of_tensors(model.buffers())
        return
    folder = tempfile.mkdtemp(dir=spec.out)
    os.environ[LEFT_IN] = folder
    try:
        yield
    finally:
        del os.environ[LEFT_IN]
        observation.of_ranks = trainings_in(folder)
        shutil.rmtree(folder)
        if observation.of_ranks:
            observation.training = combined(observation.training, observation.of_ranks)
    number = len(observation.of_ranks)
    if number not in (0, spec.world_size):
        raise Differs(f"{number} of {spec.world_size} processes have trained")
    weights = digest_of(trained_model_of(forecaster))
    observation.training.weights = weights
    if [training.weights for training in observation.of_ranks] != [weights] * spec.world_size:
        raise Differs(f"the weights that came back are not those with which all {spec.world_size} processes ended")


def trainings_in(folder: str) -> list[Training]:
    """What the processes of a fit have left behind, by rank."""
    trainings = []
    names = [name for name in os.listdir(folder) if name.endswith(".json")]
    for name in sorted(names, key=lambda name: (len(name), name)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            trainings.append(decode(Training, json.load(file)))
    return trainings


def combined(before: Training, of_ranks: list[Training]) -> Training:
    """What was observed before, and then of a fit. The first rank reports for all, but for gradients."""
    first = of_ranks[0]
    return replace(
        first,
        unused_by_torch=before.unused_by_torch,
        losses=before.losses + first.losses,
        validated=before.validated + first.validated,
        unused=tuple(dict.fromkeys((*before.unused, *(name for each in of_ranks for name in each.unused)))),
    )
