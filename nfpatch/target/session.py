"""One process of a launch of `train.py`: its specification, its ranks, and what it keeps between cases."""

from __future__ import annotations

from typing import Any

from .comparing import FitEnd
from .events import Frame, TrainSpec
from .observing import Observation
from .on_spark import Spark
from .world import World


class Session:
    """What the cases of one process share.

    `package` is the neuralforecast of the source tree under way, `number` that of the case under way, `frames` are its
    forecasts, and `found` further events of it. `fitted` has, by the id of the case, the ends of fits that went
    through, and `scripts` the scripts that came through all their stages so far, on all ranks, and can go on.
    """

    def __init__(self, spec: TrainSpec, world: World, backend: str) -> None:
        self.spec = spec
        self.world = world
        self.backend = backend
        self.package: Any = None
        self.observation = Observation()
        self.number = 0
        self.frames: list[Frame] = []
        self.found: list[Any] = []
        self.fitted: dict[str, FitEnd] = {}
        self.scripts: dict[str, Any] = {}
        self.spark = Spark(spec)

    def begin(self, number: int) -> None:
        """Begins a case, and forgets what there is of an earlier one."""
        self.observation.begin()
        self.number, self.frames, self.found = number, [], []

    @property
    def release(self) -> str:
        """The version of neuralforecast."""
        return str(self.package.__version__)
