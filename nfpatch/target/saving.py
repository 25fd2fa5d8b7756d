"""`save` and `load` on every rank, held against what one process with the same weights forecasts."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .comparing import seed_everything
from .script import Script, one_process


def save(script: Script) -> None:
    """`save` on every rank, and on each at once `load`; whichever of the ranks comes first."""
    complaint, frames = None, []
    with saveable(script) as forecaster:
        for first in range(script.size):
            folder = folder_of(script, f"saved-{first}")
            for is_turn in (script.rank == first, script.rank != first):
                if is_turn and complaint is None:
                    try:
                        forecaster.save(folder, overwrite=False)
                        frames.append(alone_with(loaded(script, folder), script))
                    except Exception as error:  # the others are to go on
                        complaint = error
                script.gathered(None)
    if complaint is not None:
        raise complaint
    expected = alone_with(forecaster, script)
    for frame in frames:
        script.compare(frame, expected)


def load(script: Script) -> None:
    """`load` on every rank of what one of them has saved, and `predict`."""
    folder = folder_of(script, "saved-by-one")
    with saveable(script) as forecaster:
        try:
            if script.rank == 0:
                forecaster.save(folder, overwrite=False)
        finally:
            script.gathered(None)
    script.compare(forecasts_of(loaded(script, folder)), alone_with(forecaster, script))


@contextmanager
def saveable(script: Script) -> Iterator[Any]:
    """A trained forecaster without a callback of ours, which could not be saved.

    Up to 1.4.0 a model is saved by its last trainer, which is gone after a prediction, or whenever Python has collected
    garbage, with one process as well: therefore none is collected meanwhile.
    """
    forecaster = script.still(lambda: dict(script.together(), callbacks=[]))
    gc.disable()
    try:
        script.fit(forecaster, is_watched=False)
        yield forecaster
    finally:
        gc.enable()


def alone_with(forecaster: Any, script: Script) -> Any:
    """What one process predicts."""
    with one_process(forecaster, script.spec):
        return forecasts_of(forecaster)


def forecasts_of(forecaster: Any) -> Any:
    """What it predicts. Some models draw samples for that."""
    seed_everything()
    return forecaster.predict()


def folder_of(script: Script, name: str) -> str:
    """A folder of this case, the same on every rank of a node; in a script of this process alone, its own."""
    owner = f"-of-{os.getpid()}" if script.world is None else ""
    return os.path.join(script.spec.out, f"{name}-{script.spec.cases.index(script.case)}{owner}")


def loaded(script: Script, folder: str) -> Any:
    """The forecaster in a folder.

    torch 2.6 and newer load what releases before 3.0 have saved by a switch only, which is no fault of DDP.
    """
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return script.package.NeuralForecast.load(folder)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
