"""Several Optuna searches, one after the other: `python searching.py OUT TRAINER SEARCH...`.

TRAINER is the JSON object of arguments for Lightning's trainer, each SEARCH is a key of `SEARCHES`. Each process that
reaches the end writes the results to OUT/rank-N.json, by search: the trials, the best, and a digest of the weights.
"""

import json
import os
import random
import sys

import optuna
import pytorch_lightning as pl
from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoNHITS
from neuralforecast.losses import pytorch as losses
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel
from small import SMALL, H, trained_by

try:
    from neuralforecast.common._base_auto import OptunaOptions
except ImportError:  # before 3.1.9
    OptunaOptions = None

OUT = sys.argv[1]


class Pruning(pl.Callback):
    """A pruning callback as users write it; Optuna's own needs a database."""

    def __init__(self, trial):
        self.trial = trial

    def __deepcopy__(self, memo):
        return self

    def on_train_batch_start(self, trainer, module, batch, index):
        loss = trainer.callback_metrics.get("ptl/val_loss")
        if loss is not None:
            self.trial.report(float(loss), trainer.global_step)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def failing_step(model, *arguments, step=NHITS.training_step):
    """A training step that raises on rank 1 at the second step of the trial with the seed of `failing_in_a_step`."""
    if (model.random_seed, model.global_step, os.environ.get("LOCAL_RANK")) == (101, 1, "1"):
        raise ZeroDivisionError("on this rank only")
    return step(model, *arguments)


class RandomPruner(optuna.pruners.BasePruner):
    """Prunes the second trial, and the third at random."""

    def prune(self, study, trial):
        return trial.number == 1 or (trial.number == 2 and random.SystemRandom().random() < 0.5)


def everything(trial):
    width = trial.suggest_categorical("width", [8, 12, 16, 24])
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "mlp_units": [[width, width]] * 3,
        "max_steps": trial.suggest_int("max_steps", 2, 5),
        "batch_size": trial.suggest_categorical("batch_size", [1, 2, 4]),
        "scaler_type": trial.suggest_categorical("scaler_type", [None, "robust", "standard"]),
        "random_seed": trial.suggest_int("random_seed", 1, 20),
    }


def rate(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}


def failing(trial):
    bad = {"unknown_argument": 1} if getattr(trial, "number", 0) == 1 else {}
    return {**rate(trial), **bad}


def failing_on_one_rank(trial):
    is_bad = getattr(trial, "number", 0) == 1 and os.environ.get("LOCAL_RANK") == "1"
    bad = {"optimizer": int} if is_bad else {}  # which the model rejects
    return {**rate(trial), **bad}


def failing_in_a_step(trial):
    NHITS.training_step = failing_step
    return {**rate(trial), "random_seed": 101 if getattr(trial, "number", 0) == 1 else 1}


def drawing(trial):
    return {**rate(trial), "windows_batch_size": random.SystemRandom().choice([4, 8, 16, 32])}


def pruned(trial):
    return {**rate(trial), "max_steps": 5, "callbacks": [Pruning(trial)]}


def of_optuna(**options):
    return {"optuna_options": OptunaOptions(**options)}


SEARCHES = {
    "unseeded": lambda: (everything, {}),
    "seeded": lambda: (everything, {"search_alg": optuna.samplers.TPESampler(seed=3)}),
    "failing": lambda: (failing, of_optuna(study_kwargs={"catch": (TypeError,)})),
    "failing on one rank": lambda: (failing_on_one_rank, of_optuna(study_kwargs={"catch": (TypeError,)})),
    "failing in a step": lambda: (failing_in_a_step, of_optuna(study_kwargs={"catch": (ZeroDivisionError,)})),
    "drawing": lambda: (drawing, {}),
    "pruned": lambda: (pruned, of_optuna(create_study_kwargs={"pruner": RandomPruner()})),
    "with layers in the loss": lambda: (rate, {"loss": losses.IQLoss()}),
    "in threads": lambda: (rate, of_optuna(study_kwargs={"n_jobs": 2})),
    "for a time": lambda: (rate, {"time_budget": 0.5, "num_samples": 1000}),
    "in a database": lambda: (
        rate,
        of_optuna(create_study_kwargs={"storage": f"sqlite:///{OUT}/study.db", "study_name": "ours"}),
    ),
}
# Continues the study of the search before
SEARCHES["in the same database"] = lambda: (
    rate,
    of_optuna(
        create_study_kwargs={"storage": f"sqlite:///{OUT}/study.db", "study_name": "ours", "load_if_exists": True}
    ),
)


def found_by(name, trainer):
    space, options = SEARCHES[name]()

    def config(trial):
        return {**SMALL, **trainer, **space(trial)}

    model = AutoNHITS(h=H, config=config, backend="optuna", **{"num_samples": 3, **options})
    forecaster = NeuralForecast(models=[model], freq="ME")
    forecaster.fit(df=AirPassengersPanel, val_size=H)
    study = forecaster.models[0].results
    return {
        **trained_by(forecaster),
        "trials": [
            [trial.state.name, trial.params, None if trial.value is None else float(trial.value)]
            for trial in study.trials
        ],
        "windows": [trial.user_attrs.get("ALL_PARAMS", {}).get("windows_batch_size") for trial in study.trials],
        "best": study.best_trial.number,
    }


if __name__ == "__main__":
    results = {name: found_by(name, json.loads(sys.argv[2])) for name in sys.argv[3:]}
    rank = os.environ.get("LOCAL_RANK", "0")
    with open(os.path.join(OUT, f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(results, file)
