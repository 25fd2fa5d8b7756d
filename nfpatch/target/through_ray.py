"""A search through ray: a real ray, whose trials have a GPU each; pretended ones where the proof is of the CPU."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Callable
from unittest import mock

from .events import CaseSpec, TrainSpec
from .observing import Observation, make_recorder
from .pretended.pretended_gpus import pretend

PRETENDED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pretended")
TRIALS = 2
# Arguments that a user does not pass to the trainer, so that a trial trains on one device, and the best model on all;
# and what observes, as the trials are not ours to watch
NOT_SAID = ("accelerator", "devices", "callbacks")
# Bytes for ray's object store: it insists on 75 MB, and would take a third of the memory.
OBJECT_STORE = 100 * 2**20
# In a session's folder ray makes sockets, whose paths the system limits.
LONGEST_FOLDER = 28


def two_trials_through_ray(
    constant: Callable[[], dict[str, Any]], other_shapes: dict[str, int], seed: int | None
) -> dict[str, Any]:
    """Arguments of a search through ray, made of what `models.two_trials_through_optuna` takes."""
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    config = constant()
    config["learning_rate"] = tune.loguniform(1e-4, 1e-2)
    for name, size in list(other_shapes.items())[-1:]:
        config[name] = tune.grid_search([config.get(name, size // 2), size])
    return {
        "config": config,
        "num_samples": 1 if other_shapes else TRIALS,
        "search_alg": BasicVariantGenerator(random_state=seed),
    }


@contextmanager
def surroundings(case: CaseSpec, spec: TrainSpec, observation: Observation) -> Iterator[None]:
    """What a search through ray needs around it; nothing for any other case.

    Ray starts when it is asked to search, as in a user's script, and has ended afterwards. It leaves nothing behind.
    """
    if case.stage != "ray-search":
        yield
        return
    import pytorch_lightning
    import ray
    from ray import tune

    tree = spec.trees[case.tree]
    path = [PRETENDED, *([] if tree is None else [tree]), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    resources = {}
    is_pretended = spec.accelerator == "cpu" and case.strategy != "single-process"
    if is_pretended:
        resources["num_gpus"] = spec.devices
        variables["NFPATCH_PRETENDED_GPUS"] = str(spec.devices)
    place = os.path.dirname(spec.out)  # which goes with the proof, however that ends
    folder = tempfile.mkdtemp(prefix="ray-", dir=place if len(place) <= LONGEST_FOLDER else "/tmp")

    begin, search, fit = ray.init, tune.Tuner.fit, pytorch_lightning.Trainer.fit

    def started() -> Any:
        with mock.patch.object(sys, "argv", [os.path.join(folder, "search.py")]):  # its folder is on ray's path
            return begin(
                address="local",
                num_cpus=TRIALS,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env={"env_vars": variables},
                _temp_dir=folder,
                **resources,
            )

    def searched(tuner: Any) -> Any:
        if not ray.is_initialized():
            started()
        return search(tuner)

    def watched(trainer: Any, *arguments: Any, **options: Any) -> Any:
        trainer.callbacks.append(make_recorder(observation))
        return fit(trainer, *arguments, **options)

    with ExitStack() as undone:
        undone.callback(shutil.rmtree, folder, ignore_errors=True)
        undone.callback(ray.shutdown)
        undone.enter_context(mock.patch.object(ray, "init", started))
        undone.enter_context(mock.patch.object(tune.Tuner, "fit", searched))
        undone.enter_context(mock.patch.object(pytorch_lightning.Trainer, "fit", watched))
        # where ray keeps its token, which the process remembers, and neuralforecast its results of the trials
        undone.enter_context(mock.patch.dict(os.environ, HOME=spec.out))
        if is_pretended:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # else ray believes it, and has none to give
            undone.callback(pretend(spec.devices))
        yield
