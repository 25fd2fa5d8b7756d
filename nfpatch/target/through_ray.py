"""A search through a real ray, in which each trial has a GPU; a pretended one if the proof is of the CPU."""

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
# Arguments of the trainer that a user does not pass, so that a trial trains on one device, and the best model on all;
# and the callback, as trials are not observed
NOT_PASSED = ("accelerator", "devices", "callbacks")
# Bytes of ray's object store: it requires 75 MB, and takes a third of the memory by default.
OBJECT_STORE = 100 * 2**20
# ray makes sockets in the folder of a session, and the system limits the length of their paths.
LONGEST_FOLDER = 28


def ray_arguments(
    constant: Callable[[], dict[str, Any]], other_shapes: dict[str, int], seed: int | None
) -> dict[str, Any]:
    """The arguments of a search through ray, from those of `models.optuna_arguments`."""
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
def ray_for_search(case: CaseSpec, spec: TrainSpec, observation: Observation) -> Iterator[None]:
    """Around the training of a case: starts ray if a search needs it, as in a user's script, and shuts it down."""
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
    parent = os.path.dirname(spec.out)  # which is removed with the proof, however that ends
    folder = tempfile.mkdtemp(prefix="ray-", dir=parent if len(parent) <= LONGEST_FOLDER else "/tmp")

    init, search, fit = ray.init, tune.Tuner.fit, pytorch_lightning.Trainer.fit

    def start() -> Any:
        with mock.patch.object(sys, "argv", [os.path.join(folder, "search.py")]):  # its folder is on ray's path
            return init(
                address="local",
                num_cpus=TRIALS,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env={"env_vars": variables},
                _temp_dir=folder,
                **resources,
            )

    def start_and_search(tuner: Any) -> Any:
        if not ray.is_initialized():
            start()
        return search(tuner)

    def fit_observed(trainer: Any, *arguments: Any, **options: Any) -> Any:
        trainer.callbacks.append(make_recorder(observation))
        return fit(trainer, *arguments, **options)

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(ray.shutdown)
        stack.enter_context(mock.patch.object(ray, "init", start))
        stack.enter_context(mock.patch.object(tune.Tuner, "fit", start_and_search))
        stack.enter_context(mock.patch.object(pytorch_lightning.Trainer, "fit", fit_observed))
        # in which ray keeps its token, and neuralforecast the results of the trials
        stack.enter_context(mock.patch.dict(os.environ, HOME=spec.out))
        if is_pretended:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # else ray follows it, and has no GPUs to give
            stack.callback(pretend(spec.devices))
        yield
