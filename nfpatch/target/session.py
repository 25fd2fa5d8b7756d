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

    `number` is that of the running case, `frames` are its forecasts, and `events` what else was recorded of it.
    `fitted` has, by the id of the case, the ends of fits that did not fail. `scripts` are those of which no stage has
    failed on any rank so far; further stages continue them.
    """

    def __init__(self, spec: TrainSpec, world: World, backend: str) -> None:
        self.spec = spec
        self.world = world
        self.backend = backend
        self.observation = Observation()
        self.number = 0
        self.frames: list[Frame] = []
        self.events: list[Any] = []
        self.fitted: dict[str, FitEnd] = {}
        self.scripts: dict[str, Any] = {}
        self.spark = Spark(spec)

    def begin(self, number: int) -> None:
        """Begins a case, and forgets what was recorded of an earlier one."""
        self.observation.begin()
        self.number, self.frames, self.events = number, [], []
