"""A user's script on every rank: a forecaster that all have trained, and twins of it.

The trainer gets the arguments that a user passes, and nothing is adjusted for neuralforecast. What one process gives
comes from the same forecaster, with a trainer for this process alone, or from a twin that starts from its weights and
keeps them.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Callable

from . import on_spark
from .comparing import seed_everything, start_from, weights_of
from .data import LENGTH, Data, levelled_data
from .events import CaseSpec, Training
from .frames import difference_of, record_of
from .models import SMALL_SIZES, model_of, trained_model_of, with_options
from .outcomes import Differs
from .plain_fit import fit
from .session import Session
from .through_ray import surroundings
from .trainer import arguments_alone, quiet_arguments, script_arguments

# Points in time by which each series is shorter than the one before, and that the shortest has at least
SERIES_CUT = 20
SHORTEST_SERIES = 80


class Script:
    """The script of one case: a forecaster that was trained by all ranks, and what makes further ones.

    `training` is what was observed of it. One that `is_alone` is the script of this process alone, and has no `world`.
    """

    def __init__(self, case: CaseSpec, session: Session, is_alone: bool = False) -> None:
        self.case = case
        self.session = session
        self.spec = session.spec
        self.package = session.package
        self.world = None if is_alone else session.world
        n_series = 1 if case.stage == "single-series" else self.n_series
        self.data: Data = levelled_data(SMALL_SIZES["h"], n_series, cut_of(case, self.n_series))
        with surroundings(case, self.spec, session.observation):
            self.forecaster = self.made(self.together)
            self.fit(self.forecaster)
        self.weights = weights_of(trained_model_of(self.forecaster))
        self.training = replace(self.observed)

    @property
    def observed(self) -> Training:
        """What is observed of the trainings of the case under way."""
        return self.session.observation.training

    def restore_training(self) -> None:
        """Makes what is observed that of the script's own training again."""
        self.session.observation.training = replace(self.training)

    def compare(self, found: Any, expected: Any) -> None:
        """Raises Differs where two frames of forecasts differ: in rows, their order, or any bit of a number.

        `found` is recorded, as it must be the same on all ranks.
        """
        self.session.frames.append(record_of(found))
        difference = difference_of(found, expected)
        if difference is not None:
            raise Differs(difference)

    @property
    def n_series(self) -> int:
        """How many series there are: one more than all ranks share evenly."""
        return self.spec.world_size + 1

    def together(self) -> dict[str, Any]:
        """The arguments that a user passes to Lightning's trainer, for all ranks."""
        return self.alone() if self.world is None else script_arguments(self.session)

    @property
    def rank(self) -> int:
        """The rank of this process among those that run the script."""
        return 0 if self.world is None else self.world.rank

    @property
    def size(self) -> int:
        """How many processes run the script."""
        return 1 if self.world is None else self.world.size

    def gathered(self, value: Any) -> list[Any]:
        """What each rank has brought along, by rank, as soon as all have come."""
        return [value] if self.world is None else self.world.gather(value)

    def alone(self) -> dict[str, Any]:
        """What makes Lightning work in this process alone."""
        return {
            **arguments_alone(self.spec.accelerator),
            **quiet_arguments(self.session.release, self.session.observation),
        }

    def made(self, trainer: Callable[[], dict[str, Any]], **options: Any) -> Any:
        """A forecaster of the case's model, untrained."""
        seed_everything()
        case = with_options(self.case, options)
        model = model_of(case, self.spec.max_steps, trainer, self.n_series)
        return self.package.NeuralForecast(models=[model], freq=self.data.freq)

    @property
    def is_on_spark(self) -> bool:
        """Whether all ranks are those of Spark."""
        return self.world is not None and self.spec.is_on_spark

    def still(self, trainer: Callable[[], dict[str, Any]], **options: Any) -> Any:
        """A forecaster that starts from the trained weights and keeps them, whatever it is trained on."""
        forecaster = self.made(trainer, learning_rate=0.0, **options)
        model = trained_model_of(forecaster)
        if not self.is_on_spark:  # which makes each model again, by its options and seed
            start_from(model, self.weights)
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.momentum = 0.0  # else batch normalization learns from whatever windows a rank has drawn
        return forecaster

    def fit(self, forecaster: Any, is_watched: bool = True, past: Any = None, further: bool = False) -> None:
        """Trains, with validation, on the script's data unless others are given.

        Not `is_watched` is one by this process alone, or without the callback. A `further` one goes on from what has
        been trained, which 1.6.0 does not do by default.
        """
        data = self.data if past is None else replace(self.data, past=past)
        go_on = further and "use_init_models" in inspect.signature(forecaster.fit).parameters
        options = {"use_init_models": False} if go_on else {}
        is_watched = is_watched and self.world is not None
        fit(forecaster, data, self.case, self.session, is_watched, val_size=SMALL_SIZES["h"], **options)
        if is_watched and self.spec.is_on_spark:
            on_spark.check_all_is_read(data.past, self.session.observation.of_ranks)


def cut_of(case: CaseSpec, n_series: int) -> int:
    """By how much each of so many series is shorter than the one before.

    1.x predicts in sample for series of one length only, with one process as well.
    """
    most = (LENGTH - SHORTEST_SERIES) // max(n_series - 1, 1)
    return 0 if case.stage == "insample" else min(SERIES_CUT, most)
