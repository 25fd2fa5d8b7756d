from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import optuna
import pytest
import torch
from several_ranks import run_in_threads

from patches.runtime import search
from patches.runtime.ranks import RankGroup

TRIALS = 3
TWO_AND_THREE = pytest.mark.parametrize("world_size", [2, 3])


class Model:
    """A model whose construction raises if its options say so."""

    def __init__(self, **options: Any) -> None:
        if options.get("is_refused"):
            raise TypeError("no such option")
        self.options = options


def rate(trial: Any) -> dict[str, Any]:
    return {"rate": trial.suggest_float("rate", 0.0, 1.0)}


def loss_of(model: Model, trial: Any) -> float:
    return float(model.options["rate"])


def run_search(
    group: Optional[RankGroup],
    config: Callable[[Any], dict[str, Any]] = rate,
    train: Callable[[Model, Any], float] = loss_of,
    study: Optional[dict[str, Any]] = None,
    **options: Any,
) -> Any:
    """The study of this rank, with the hooks as in `BaseAuto._optuna_tune_model`."""
    cls_model: Any = Model

    def objective(trial: Any) -> float:
        options = config(trial)
        model = cls_model(**options)
        loss = train(model, trial)
        trial.set_user_attr("ALL_PARAMS", options)
        return loss

    ranks = search.start_search(config, SimpleNamespace(suggest_float=lambda *_: 0.0), group=group)
    config = ranks.broadcast_config(config)
    cls_model = ranks.sync_model(cls_model)
    created = ranks.create_study(**(study or {}))
    return ranks.optimize(created, objective, **{"n_trials": TRIALS, **options})


def summary(study: Any) -> list[tuple[str, dict[str, Any], Optional[float]]]:
    return [(trial.state.name, trial.params, trial.value) for trial in study.trials]


def states(study: Any) -> list[str]:
    return [trial.state.name for trial in study.trials]


def run_on_ranks(world_size: int, **options: Any) -> Any:
    """The study of rank 0, which those of all ranks must equal."""
    studies = run_in_threads(world_size, lambda group: run_search(group, **options))
    for study in studies:
        assert isinstance(study, optuna.Study), study
        assert summary(study) == summary(studies[0])
    return studies[0]


@TWO_AND_THREE
def test_every_rank_trains_the_trials_of_rank_0(world_size: int) -> None:
    trained: dict[int, list[dict[str, Any]]] = {}

    def run(group: RankGroup) -> Any:
        loss, models = object(), trained.setdefault(group.rank, [])

        def config(trial: Any) -> dict[str, Any]:
            drawn = random.SystemRandom().random()
            return {**rate(trial), "drawn": drawn, "loss": loss, "devices": group.rank, "rank": group.rank}

        def train(model: Model, trial: Any) -> float:
            assert model.options["loss"] is loss, "what is no plain value, each rank has for itself"
            models.append({**model.options, "loss": None})
            return loss_of(model, trial)

        return run_search(group, config, train)

    studies = run_in_threads(world_size, run)
    assert states(studies[0]) == ["COMPLETE"] * TRIALS
    for rank, study in enumerate(studies):
        assert summary(study) == summary(studies[0])
        assert study.best_trial.number == studies[0].best_trial.number
        assert trained[rank] == [{**options, "devices": rank} for options in trained[0]]
        attrs = [{**trial.user_attrs["ALL_PARAMS"], "loss": None} for trial in study.trials]
        assert attrs == trained[rank], "a study has the options that its own rank has trained"
    assert len({options["drawn"] for options in trained[0]}) == TRIALS


def test_a_seeded_sampler_suggests_the_same_as_in_one_process() -> None:
    def study() -> dict[str, Any]:
        return {"sampler": optuna.samplers.TPESampler(seed=3), "direction": "minimize"}

    assert summary(run_on_ranks(2, study=study())) == summary(run_search(None, study=study()))


def test_several_searches_of_a_process_do_not_mix() -> None:
    def run_twice(group: RankGroup) -> Any:
        return [summary(run_search(group)), summary(run_search(group))]

    first, second = run_in_threads(2, run_twice)
    assert first == second
    assert first[0] != first[1]


@pytest.mark.parametrize("failing_rank", [0, 1])
@pytest.mark.parametrize("place", ["config", "training"])
def test_a_trial_that_fails_on_one_rank_fails_on_all(failing_rank: int, place: str) -> None:
    def run(group: RankGroup) -> Any:
        def fail_once(where: str, trial: Any) -> None:
            if (where, group.rank, getattr(trial, "number", 0)) == (place, failing_rank, 1):
                raise TypeError("on this rank alone")

        def config(trial: Any) -> dict[str, Any]:
            fail_once("config", trial)
            return rate(trial)

        def train(model: Model, trial: Any) -> float:
            fail_once("training", trial)
            return loss_of(model, trial)

        return run_search(group, config, train, catch=(TypeError,))

    first, second = run_in_threads(2, run)
    assert states(first) == states(second) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_model_that_one_rank_cannot_construct_is_trained_on_no_rank() -> None:
    trained = []

    def run(group: RankGroup) -> Any:
        def refused_elsewhere(**options: Any) -> Model:
            return Model(is_refused=group.rank == 1, **options)

        ranks = search.start_search(rate, group=group)
        constructor = ranks.sync_model(refused_elsewhere)

        def objective(trial: Any) -> float:
            ranks.broadcast_config(rate)(trial)
            trained.append(constructor(rate=0.1))
            return 0.0

        return ranks.optimize(ranks.create_study(), objective, n_trials=1)

    first, second = run_in_threads(2, run)
    assert (type(first), str(first)) == (TypeError, "no such option")
    assert type(second) is RuntimeError
    assert "TypeError: no such option" in str(second)
    assert trained == []


def test_all_ranks_raise_the_error_of_the_rank_that_failed_first() -> None:
    has_failed, seen = threading.Event(), []

    def run(group: RankGroup) -> Any:
        def train(model: Model, trial: Any) -> float:
            if group.rank == 1:
                raise ZeroDivisionError("first")
            has_failed.wait()
            raise KeyError("second")

        ranks: Any = search.start_search(rate, group=group)
        first_error = ranks._first_error

        def seen_error(error: Exception) -> Any:
            found = first_error(error)
            seen.append(type(found))
            return found

        ranks._first_error = seen_error
        add = ranks._group.store.add

        def added(key: str, number: int) -> int:
            result: int = add(key, number)
            if key.endswith("/errors"):
                has_failed.set()
            return result

        object.__setattr__(ranks, "_group", RankGroup(group.rank, 2, StoreThat(ranks._group.store, added)))

        def objective(trial: Any) -> float:
            return train(ranks.sync_model(Model)(**ranks.broadcast_config(rate)(trial)), trial)

        return ranks.optimize(ranks.create_study(), objective, n_trials=1, catch=(Exception,))

    assert [states(study) for study in run_in_threads(2, run)] == [["FAIL"], ["FAIL"]]
    assert seen == [ZeroDivisionError, ZeroDivisionError]


class StoreThat:
    """A store with its own `add`."""

    def __init__(self, store: Any, add: Callable[[str, int], int]) -> None:
        self.store, self.add = store, add

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Unpicklable(Exception):
    def __init__(self, lock: Any) -> None:
        super().__init__("cannot be sent")
        self.lock = lock


def test_an_error_that_cannot_be_pickled_is_sent_as_its_text() -> None:
    def run(group: RankGroup) -> Any:
        def train(model: Model, trial: Any) -> float:
            if group.rank == 1:
                raise Unpicklable(threading.Lock())
            return 0.0

        return run_search(group, train=train, n_trials=1)

    first, second = run_in_threads(2, run)
    assert (type(first), str(first)) == (RuntimeError, "Unpicklable: cannot be sent")
    assert "rank 0" in str(second)


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_rank_that_leaves_a_trial_ends_the_search(failing_rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.DistributedSearch, "GRACE_SECONDS", 0.01)
    has_ended = threading.Event()
    n_trials = TRIALS if failing_rank == 0 else 1  # rank 0 runs no further trial

    def run(group: RankGroup) -> Any:
        def train(model: Model, trial: Any) -> float:
            if group.rank == failing_rank:
                raise ZeroDivisionError("alone")
            has_ended.wait()  # as in a collective call, until the other process has exited
            return 0.0

        try:
            return run_search(group, train=train, n_trials=n_trials, catch=(ZeroDivisionError,))
        finally:
            has_ended.set()

    errors = run_in_threads(2, run)
    assert str(errors[failing_rank]) == "alone"
    if failing_rank == 0:
        assert "ZeroDivisionError: alone" in str(errors[1])


def refuse(trial: Any) -> bool:
    raise AssertionError("this rank decides nothing")


class PruneSecond(optuna.pruners.BasePruner):
    def prune(self, study: Any, trial: Any) -> bool:
        return bool(trial.number == 1)


@TWO_AND_THREE
def test_rank_0_decides_which_trials_are_pruned(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.trial.FixedTrial, "should_prune", refuse)

    def train(model: Model, trial: Any) -> float:
        for step in range(2):
            trial.report(1.0, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss_of(model, trial)

    study = run_on_ranks(world_size, train=train, study={"pruner": PruneSecond()})
    assert states(study) == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_concurrent_trials_of_optuna_run_one_after_another() -> None:
    assert states(run_on_ranks(2, n_jobs=2, n_trials=6)) == ["COMPLETE"] * 6


def test_a_study_that_rank_0_cannot_create_fails_on_all() -> None:
    first, second = run_in_threads(2, lambda group: run_search(group, study={"direction": "sideways"}))
    assert isinstance(first, ValueError)
    assert f"ValueError: {first}" in str(second)


def test_a_study_is_kept_in_a_database(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = {"storage": storage, "study_name": "ours", "load_if_exists": True}
    first = summary(run_on_ranks(2, study=study))
    again = run_on_ranks(2, study=study)
    assert summary(again)[:TRIALS] == first
    assert len(again.trials) == 2 * TRIALS
    assert summary(optuna.load_study(study_name="ours", storage=storage)) == summary(again)


def test_an_in_memory_storage_is_rank_local() -> None:
    studies = run_in_threads(
        2, lambda group: run_search(group, study={"storage": optuna.storages.InMemoryStorage(), "study_name": "ours"})
    )
    assert summary(studies[0]) == summary(studies[1])


def test_objects_in_user_attributes_are_not_sent() -> None:
    def train(model: Model, trial: Any) -> float:
        trial.set_user_attr("loss", torch.nn.Linear(1, 1))
        trial.set_user_attr("rank_0", 1)
        return 0.0

    studies = run_in_threads(2, lambda group: run_search(group, train=train, n_trials=1))
    assert all(study.trials[0].user_attrs["rank_0"] == 1 for study in studies)


class Tuner:
    def __init__(self, error: Optional[Exception] = None) -> None:
        self.error = error

    def fit(self) -> Any:
        if self.error is not None:
            raise self.error
        return {"best": 1, "function": lambda: 2}  # only ray's pickle can send this


@TWO_AND_THREE
def test_with_ray_all_ranks_have_the_results_of_rank_0(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.DistributedSearch, "POLL_SECONDS", 0.001)

    def run(group: RankGroup, error: Optional[Exception] = None) -> Any:
        ranks = search.start_search({}, group=group)
        return ranks.receive_results() if ranks.rank > 0 else ranks.fit_tuner(Tuner(error))

    for results in run_in_threads(world_size, run):
        assert (results["best"], results["function"]()) == (1, 2)
    first, *others = run_in_threads(world_size, lambda group: run(group, ValueError("no trial")))
    assert isinstance(first, ValueError)
    assert ["ValueError: no trial" in str(error) for error in others] == [True] * len(others)


def test_one_process_searches_as_without_the_patch() -> None:
    def config(trial: Any) -> dict[str, Any]:
        called.append(trial)
        random.random(), np.random.rand(), torch.rand(1)
        return {"devices": 1}

    called: list[Any] = []
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    ranks = search.start_search(config, "a trial")
    after = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert after == (random.random(), np.random.rand(), torch.rand(1).item())
    assert called == ["a trial"]
    assert (ranks.rank, ranks.broadcast_config(config), ranks.sync_model(Model)) == (0, config, Model)
    assert ranks.fit_tuner(Tuner())["best"] == 1
    with pytest.raises(RuntimeError):
        ranks.receive_results()
    assert isinstance(search.start_search({"devices": 1}), search.SingleProcessSearch)


def test_a_search_on_spark_starts_no_processes() -> None:
    ranks = search.start_search(lambda trial: {"devices": 2}, "a trial", distributed_config=object())
    assert isinstance(ranks, search.SingleProcessSearch)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"devices": 1},
        {"devices": "1", "accelerator": "cpu"},
        {"devices": "auto", "strategy": "ddp"},
        {"devices": -1},
        {"devices": [0]},
        {"devices": 0},
    ],
)
def test_one_device_needs_no_trainer(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def trainer(**kwargs: Any) -> None:
        raise AssertionError(kwargs)

    monkeypatch.setattr(search.pl, "Trainer", trainer)
    assert search.launch_ranks({"unknown": 1, **config}) is None


def test_the_models_default_to_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def trainer(**kwargs: Any) -> Any:
        asked.update(kwargs)
        return SimpleNamespace(world_size=1)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(search.pl, "Trainer", trainer)
    assert search.launch_ranks({"strategy": None}) is None
    assert {k: asked[k] for k in search.PLACEMENT_KEYS if k in asked} == {"accelerator": "gpu", "devices": -1}
    assert search.launch_ranks({"devices": 2, "num_nodes": 2}) is None
    assert (asked["devices"], asked["num_nodes"]) == (2, 2)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_processes_that_exist_only_during_a_fit_do_not_take_part(strategy: str) -> None:
    assert search.launch_ranks({"accelerator": "cpu", "devices": 2, "strategy": strategy}) is None


def test_lightning_starts_the_processes_of_a_search(tmp_path: Path) -> None:
    script = Path(__file__).parent / "launching.py"
    variables = {**os.environ, "PYTHONPATH": str(script.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["world_size"] == 2
    assert [state for state, _ in first["trials"]] == ["COMPLETE"] * 2


def test_a_trial_of_ray_does_not_know_the_rank_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OTHER_RANK", "1")
    before = dict(os.environ)
    with search.without_launcher_env():
        assert before.keys() - os.environ.keys() >= {"RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "MASTER_PORT"}
        assert os.environ["OTHER_RANK"] == "1"
    assert dict(os.environ) == before
