"""A user's script on every rank: a forecaster that all ranks have trained, and further ones with its weights.

The trainer gets the arguments that a user passes; nothing is adjusted for neuralforecast. The single-process reference
comes from the same forecaster with a trainer for this process alone, or from one that keeps the trained weights.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Callable

from . import on_spark
from .comparing import seed_everything, start_from, weights_of
from .data import HORIZON, LENGTH, levelled_series
from .events import CaseSpec, Training
from .frames import difference_of, record_of
from .models import make_model, trained_model_of, with_options
from .outcomes import Differs
from .plain_fit import fit, new_forecaster
from .session import Session
from .through_ray import ray_for_search
from .trainer import ddp_arguments, quiet_arguments, single_process_arguments
from .world import SingleProcess, World

# How many points in time each series is shorter than the previous one, and the shortest has at least
SERIES_CUT = 20
SHORTEST_SERIES = 80


class Script:
    """The script of a case: a forecaster that all ranks have trained, and what is needed to make further ones.

    `training` is what was observed of it. A script that `is_alone` is run by this process only.
    """

    def __init__(self, case: CaseSpec, session: Session, is_alone: bool = False) -> None:
        self.case = case
        self.session = session
        self.spec = session.spec
        self.is_alone = is_alone
        self.is_on_spark = self.spec.is_on_spark and not is_alone
        self.world: World | SingleProcess = SingleProcess() if is_alone else session.world
        self.n_series = self.spec.world_size + 1  # which the ranks cannot share evenly
        n_series = 1 if case.stage == "single-series" else self.n_series
        self.past = levelled_series(n_series, cut_of(case, self.n_series), self.spec.world_size)
        with ray_for_search(case, self.spec, session.observation):
            self.forecaster = self.make_forecaster()
            self.fit(self.forecaster)
        self.weights = weights_of(trained_model_of(self.forecaster))
        self.training = replace(self.observed)

    @property
    def observed(self) -> Training:
        """What was observed in the running case."""
        return self.session.observation.training

    def restore_training(self) -> None:
        """Makes the script's own training the observed one again."""
        self.session.observation.training = replace(self.training)

    def compare(self, actual: Any, expected: Any) -> None:
        """Raises Differs if two frames of forecasts differ: in rows, their order, or any bit of a number.

        `actual` is recorded, because it must be the same on all ranks.
        """
        self.session.frames.append(record_of(actual))
        difference = difference_of(actual, expected)
        if difference is not None:
            raise Differs(difference)

    def trainer_arguments(self) -> dict[str, Any]:
        """The arguments for Lightning's trainer in the processes that run the script."""
        if self.is_alone:
            return self.reference_arguments()
        return {**ddp_arguments(self.spec), **quiet_arguments(self.session.observation)}

    def reference_arguments(self) -> dict[str, Any]:
        """The arguments for Lightning's trainer in the single-process reference."""
        return {**single_process_arguments(self.spec.accelerator), **quiet_arguments(self.session.observation)}

    def make_forecaster(self, trainer: Callable[[], dict[str, Any]] | None = None, **options: Any) -> Any:
        """A forecaster with the case's model, untrained; `trainer` gives the arguments for Lightning's trainer."""
        seed_everything()
        case = with_options(self.case, options)
        model = make_model(case, self.spec.max_steps, trainer or self.trainer_arguments, self.n_series)
        return new_forecaster(model)

    def make_with_fixed_weights(self, trainer: Callable[[], dict[str, Any]], **options: Any) -> Any:
        """A forecaster that starts from the trained weights, and keeps them in any training."""
        forecaster = self.make_forecaster(trainer, learning_rate=0.0, **options)
        model = trained_model_of(forecaster)
        if not self.is_on_spark:  # which makes each model again, by its options and seed
            start_from(model, self.weights)
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.momentum = 0.0  # else batch normalization learns from the windows that a rank draws
        return forecaster

    def fit(self, forecaster: Any, is_watched: bool = True, past: Any = None, further: bool = False) -> None:
        """Trains, with validation, on the data of the script unless others are given.

        A fit that is not `is_watched` is one by this process alone, or without the callback. A `further` one continues
        from the current weights, which 1.6.0 does not by default.
        """
        past = self.past if past is None else past
        needs_option = further and "use_init_models" in inspect.signature(forecaster.fit).parameters
        options = {"use_init_models": False} if needs_option else {}
        is_watched = is_watched and not self.is_alone
        fit(forecaster, past, self.case, self.session, is_watched, val_size=HORIZON, **options)
        if is_watched and self.is_on_spark:
            on_spark.check_all_is_read(past, self.session.observation.of_ranks)


def cut_of(case: CaseSpec, n_series: int) -> int:
    """How many points in time each series is shorter than the previous one.

    1.x predicts in sample only for series of equal length, with one process as well.
    """
    most = (LENGTH - SHORTEST_SERIES) // max(n_series - 1, 1)
    return 0 if case.stage == "insample" else min(SERIES_CUT, most)
