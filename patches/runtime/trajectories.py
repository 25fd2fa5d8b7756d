"""Returns the recorded losses of a model from the processes that train it.

`ddp_spawn` and `ddp_notebook` train in processes that end with the training. Lightning copies weights and metrics back,
but not `train_trajectories` and `valid_trajectories`, which are lists of the model. Rank 0 writes both to a temporary
file, which the process that launched it reads.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("train_trajectories", "valid_trajectories")


@contextmanager
def kept_after_spawn(model: Any) -> Iterator[None]:
    """After the `with` block, read the trajectories of a training in other processes.

    If this process trains, nothing is read or written. Makes no collective call.
    """
    n_steps = len(model.train_trajectories)
    # Only the name, because a process that trains itself may have no folder for temporary files
    file_name = f"neuralforecast-{uuid.uuid4().hex}.json"
    model._trajectories_file = (os.getpid(), file_name)
    try:
        yield
    finally:
        del model._trajectories_file
    if len(model.train_trajectories) > n_steps:
        return
    path = os.path.join(tempfile.gettempdir(), file_name)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for name, trajectory in json.load(file).items():
                setattr(model, name, [tuple(step) for step in trajectory])
        os.remove(path)


def write_from_launched_process(model: Any) -> None:
    """Write the trajectories if another process has launched this one for the training, and the local rank is 0.

    Makes no collective call.
    """
    parent, file_name = getattr(model, "_trajectories_file", (os.getpid(), ""))
    if parent != os.getpid() and model.trainer.local_rank == 0:
        with open(os.path.join(tempfile.gettempdir(), file_name), "w", encoding="utf-8") as file:
            json.dump({name: getattr(model, name) for name in NAMES}, file)
