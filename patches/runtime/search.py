"""Hyperparameter search on several ranks: rank 0 leads the search, and every rank trains its trials.

With Optuna only the study of rank 0 samples, prunes and limits the time; the other ranks receive each trial and train
it too. With ray only rank 0 searches, in trials of one device, and the other ranks receive the results.

All messages go through the store of the process group, not through collective calls: a rank that fails must not leave
the others in a call that never returns. The keys of the N-th search are below `neuralforecast/search/N/`:

    announced           how many messages rank 0 has published
    M                   the M-th message of rank 0: a pair of a kind ("trial", "end", "error") and a value
    M/constructed/RANK  the error of a rank in the construction of the model of trial M; None if there was none
    M/pruned/K          whether trial M is pruned at its K-th report
    M/errors            counts the ranks that failed in trial M
    M/ended/RANK        the result of trial M on a rank: None, or the order of its failure and the error
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np
import pytorch_lightning as pl
import torch

from . import compat
from .ranks import RankGroup, current_group, to_picklable

# Arguments of the trainer for the placement of a rank; each rank keeps its own
PLACEMENT_KEYS = ("accelerator", "devices", "num_nodes", "strategy", "plugins")
# The variables with the rank of a process, of Lightning, torch and SLURM, besides those that begin with TORCHELASTIC_
LAUNCHER_ENV_VARS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"),
)


class Trial(NamedTuple):
    """A trial as rank 0 publishes it; `config` has the values that the other ranks must not draw themselves."""

    number: int
    params: dict[str, Any]
    config: dict[str, Any]
    study_name: str
    trial_id: int


class SingleProcessSearch:
    """A search in one process, or with ranks that exist only during a fit: the same as without the patch."""

    rank = 0

    def broadcast_config(self, config: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """The configuration function itself."""
        return config

    def sync_model(self, model_class: Callable[..., Any]) -> Callable[..., Any]:
        """The model class itself."""
        return model_class

    def create_study(self, **kwargs: Any) -> Any:
        """The result of `optuna.create_study`."""
        import optuna

        return optuna.create_study(**kwargs)

    def optimize(self, study: Any, objective: Callable[[Any], Any], **kwargs: Any) -> Any:
        """The study, after `study.optimize`."""
        study.optimize(objective, **kwargs)
        return study

    def fit_tuner(self, tuner: Any) -> Any:
        """The result of ray's `tuner.fit`."""
        return tuner.fit()

    def receive_results(self) -> Any:
        """Not called in one process."""
        raise RuntimeError("There is no other rank that searches.")


class DistributedSearch:
    """A search that all ranks of a group make together.

    The methods are called on every rank, in the same order, unless their docstring says otherwise.
    """

    # How long a rank whose trial failed waits for those of the others
    GRACE_SECONDS = 60.0
    # How often a rank polls for the results of ray on rank 0, which may take longer than the store's timeout
    POLL_SECONDS = 0.5

    def __init__(self, group: RankGroup) -> None:
        self.rank = group.rank
        self._group = group.next_call("neuralforecast/search")
        self._lock = threading.Lock()
        self._message = 0  # the number of the last message, which is that of the current trial
        self._storage: Any = None
        self._received_config: dict[str, Any] = {}
        self._is_announced = False  # whether the current trial was published to the other ranks
        self._is_constructed = False  # whether this rank has published the result of the construction of its model
        self._unrecoverable: Optional[Exception] = None  # the error with which this rank left the others in a trial

    def broadcast_config(self, config: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """A configuration function that returns the same on every rank, whatever `config` draws.

        On rank 0 it publishes the trial; the other ranks use its values, except objects and PLACEMENT_KEYS.
        """

        def synced_config(trial: Any) -> dict[str, Any]:
            own = config(trial)
            if self.rank > 0:
                return {**own, **self._received_config}
            shared = {k: v for k, v in own.items() if k not in PLACEMENT_KEYS and _is_json(v)}
            message = Trial(trial.number, trial.params, shared, trial.study.study_name, trial._trial_id)
            self._publish_next("trial", message)
            self._is_announced = True
            return own

        return synced_config

    def sync_model(self, model_class: Callable[..., Any]) -> Callable[..., Any]:
        """A constructor that raises on every rank if it raises on any, so that no rank trains without the others.

        Each rank waits for the others up to the store's timeout.
        """

        def synced_model(**kwargs: Any) -> Any:
            model, error = None, None
            try:
                model = model_class(**kwargs)
            except Exception as exception:
                error = exception
            self._publish_construction(error)
            ranks = range(self._group.world_size)
            received = [self._group.receive(f"{self._message}/constructed/{rank}") for rank in ranks]
            for first in filter(None, [error, *received]):
                raise first
            return model

        return synced_model

    def create_study(self, **kwargs: Any) -> Any:
        """The result of `optuna.create_study` on rank 0; None on the others, which get a study from `optimize`."""
        import optuna

        self._storage = kwargs.get("storage")
        if self.rank > 0:
            return None
        with self.report_errors():
            return optuna.create_study(**kwargs)

    def optimize(self, study: Any, objective: Callable[[Any], Any], **kwargs: Any) -> Any:
        """The study with all trials; on other ranks than 0 a copy, with this rank's own user attributes.

        A trial that fails on one rank fails on all of them. Raises what `study.optimize` raises, on rank 0; on the
        others a RuntimeError with its text.
        """
        objective = self._sync_objective(objective)
        if self.rank > 0:
            return self._follow(objective)
        with self.report_errors():
            study.optimize(objective, **kwargs)
            self._publish_study(study)
        return study

    def fit_tuner(self, tuner: Any) -> Any:
        """The result of ray's `tuner.fit`, which is published for the other ranks. Called on rank 0 only."""
        from ray import cloudpickle

        with self.report_errors():
            results = tuner.fit()
            self._publish_next("end", cloudpickle.dumps(results))  # type: ignore[no-untyped-call]
        return results

    def receive_results(self) -> Any:
        """The results of ray on rank 0, waiting without a timeout. Called on the other ranks only.

        Raises RuntimeError if the search failed on rank 0, or if that process has exited.
        """
        while self._group.store.add("announced", 0) <= self._message:
            time.sleep(self.POLL_SECONDS)
        return pickle.loads(self._receive_next()[1])

    @contextmanager
    def report_errors(self) -> Iterator[None]:
        """Publish an error that is raised in the block, so that the other ranks raise it too. For rank 0."""
        try:
            yield
        except Exception as error:
            self._publish_next("error", f"{type(error).__name__}: {error}")
            raise

    def _publish_next(self, kind: str, value: object) -> None:
        self._message += 1
        self._group.publish(f"{self._message}", (kind, value))
        self._group.store.add("announced", 1)

    def _receive_next(self) -> tuple[str, Any]:
        self._message += 1
        kind, value = self._group.receive(f"{self._message}")
        if kind == "error":
            raise RuntimeError(f"The search failed on rank 0: {value}")
        return kind, value

    def _publish_construction(self, error: Optional[Exception]) -> None:
        self._is_constructed = True
        self._group.publish(f"{self._message}/constructed/{self.rank}", error and to_picklable(error))

    def _sync_objective(self, objective: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """An objective that fails on every rank if it fails on one."""

        def synced_objective(trial: Any) -> Any:
            with self._lock:  # Optuna may run several trials at once, in threads
                return self._run_trial(objective, trial)

        return synced_objective

    def _run_trial(self, objective: Callable[[Any], Any], trial: Any) -> Any:
        self._is_announced, self._is_constructed = self.rank > 0, False
        self._sync_pruning(trial)
        loss, error = None, None
        try:
            loss = objective(trial)
        except Exception as exception:
            error = exception
        if self._is_announced:
            if not self._is_constructed:
                self._publish_construction(error)
            error = self._first_error(error)
        if self._unrecoverable is not None and self.rank == 0:
            trial.study.stop()
        if error is not None:
            raise error
        return loss

    def _sync_pruning(self, trial: Any) -> None:
        """Let rank 0 decide whether the trial is pruned."""
        counter, decide = itertools.count(), trial.should_prune

        def should_prune() -> Any:
            key = f"{self._message}/pruned/{next(counter)}"
            if self.rank == 0:
                self._group.publish(key, decide())
            return self._group.receive(key)

        trial.should_prune = should_prune

    def _first_error(self, error: Optional[Exception]) -> Optional[Exception]:
        """The error of the rank that failed first in this trial; None if none did.

        A rank that failed waits GRACE_SECONDS for the others: they may be in a collective call that it left.
        """
        order, failure = None, None
        if error is not None:
            order = self._group.store.add(f"{self._message}/errors", 1)
            failure = (order, to_picklable(error))
        self._group.publish(f"{self._message}/ended/{self.rank}", failure)
        keys = [f"{self._message}/ended/{rank}" for rank in range(self._group.world_size)]
        if error is not None:
            try:
                self._group.store.wait(keys, timedelta(seconds=self.GRACE_SECONDS))
            except Exception:
                self._unrecoverable = error
                return error
        failures = [received for received in map(self._group.receive, keys) if received is not None]
        if not failures:
            return None
        first, received_error = min(failures, key=lambda received: received[0])
        return error if first == order else received_error

    def _publish_study(self, study: Any) -> None:
        """Publish the trials of rank 0, without user attributes that hold objects."""
        if self._unrecoverable is not None:
            raise self._unrecoverable
        trials = study.trials
        for trial in trials:
            trial.user_attrs = {k: v for k, v in trial.user_attrs.items() if _is_json(v)}
        self._publish_next("end", (study.study_name, study.directions, trials))

    def _follow(self, objective: Callable[[Any], Any]) -> Any:
        """Run every trial that rank 0 publishes; a study of them all."""
        import optuna

        own_attrs: dict[int, dict[str, Any]] = {}
        while True:
            kind, value = self._receive_next()
            if kind == "end":
                break
            message: Trial = value
            self._received_config = message.config
            trial = self._open_trial(message)
            try:
                objective(trial)
            except Exception:
                # Rank 0 decides whether the search continues after a failed trial
                if self._unrecoverable is not None:
                    raise
            own_attrs[message.number] = trial.user_attrs
        study_name, directions, trials = value
        # In memory even if there is a storage, to which rank 0 may have added more trials by now
        study = optuna.create_study(study_name=study_name, directions=directions)
        for frozen in trials:
            frozen.user_attrs.update(own_attrs.get(frozen.number, {}))
            study.add_trial(frozen)
        return study

    def _open_trial(self, message: Trial) -> Any:
        """The trial of rank 0, from the storage that the ranks share, or with its parameters only."""
        import optuna

        if self._storage is None or isinstance(self._storage, optuna.storages.InMemoryStorage):
            return optuna.trial.FixedTrial(message.params, message.number)
        study = optuna.load_study(study_name=message.study_name, storage=self._storage)
        return optuna.trial.Trial(study, message.trial_id)


def start_search(
    config: Union[dict[str, Any], Callable[[Any], dict[str, Any]]],
    mock_trial: Any = None,
    distributed_config: Any = None,
    group: Optional[RankGroup] = None,
) -> Union[SingleProcessSearch, DistributedSearch]:
    """Start the search of this process, and its ranks.

    `config` is the configuration, or a function that makes one from a trial; then `mock_trial` stands for a trial. With
    a `distributed_config` Spark trains, in its own processes.
    """
    if group is None and distributed_config is None:
        group = launch_ranks(_sample_config(config, mock_trial))
    return SingleProcessSearch() if group is None else DistributedSearch(group)


def launch_ranks(config: dict[str, Any]) -> Optional[RankGroup]:
    """The ranks that train with this configuration; Lightning starts them and their process group, unless they exist.

    None if one process trains, or if the ranks exist only during a fit. Collective if there is no process group yet:
    `Trainer.validate` of a module that does nothing.
    """
    kwargs = {k: config[k] for k in PLACEMENT_KEYS if config.get(k) is not None}
    if torch.cuda.is_available():
        kwargs = {"accelerator": "gpu", "devices": -1, **kwargs}  # the defaults of the models
    if _is_one_device(kwargs):
        return None
    trainer = pl.Trainer(
        **deepcopy(kwargs),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if trainer.world_size == 1 or compat.has_ephemeral_launcher(trainer):
        return None
    if not torch.distributed.is_initialized():
        data: Any = torch.utils.data.DataLoader([0])  # type: ignore[arg-type]
        trainer.validate(_NoOpModule(), dataloaders=data, verbose=False)
    return current_group()


@contextmanager
def without_launcher_env() -> Iterator[None]:
    """Hide the variables of the launcher from ray's trials, which would use the rank of this process as their own."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name in LAUNCHER_ENV_VARS or name.startswith("TORCHELASTIC_")
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


class _NoOpModule(pl.LightningModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def _is_one_device(kwargs: dict[str, Any]) -> bool:
    """Whether a trainer with these arguments trains in one process, as far as that is known before it is created."""
    devices = kwargs.get("devices", "auto")
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count()
    if isinstance(devices, list):
        devices = len(devices)
    return devices in (0, 1, "1") and kwargs.get("num_nodes", 1) == 1


def _sample_config(config: Union[dict[str, Any], Callable[[Any], dict[str, Any]]], mock_trial: Any) -> dict[str, Any]:
    """One configuration; the states of the random generators are restored after the call of the function."""
    if not callable(config):
        return config
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        return config(mock_trial)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
