from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy

from patches.runtime import ray_trials

STRATEGY = DDPStrategy()


@pytest.mark.parametrize(
    ("config", "gpus", "reserved"),
    [({}, 4, 1), ({"strategy": "ddp"}, 2, 1), ({}, 0.5, 0.5), ({}, 0, 0), ({"strategy": STRATEGY}, 4, 4)],
)
def test_a_trial_reserves_one_gpu(config: dict[str, Any], gpus: float, reserved: float) -> None:
    assert ray_trials.reserve_one_gpu(config, gpus) == reserved


@pytest.mark.parametrize(
    ("config", "gpus", "single"),
    [
        ({}, 0, {}),
        ({}, 1, {}),
        ({}, 2, {"devices": 1}),
        ({"devices": None}, 0, {"devices": None}),
        ({"devices": 4, "strategy": "ddp", "num_nodes": 2}, 0, {"devices": 1, "strategy": "ddp"}),
        ({"devices": [0, 1], "strategy": None}, 2, {"devices": 1, "strategy": None}),
        ({"devices": 2, "strategy": "ddp_spawn_find_unused_parameters_true"}, 0, {"devices": 1}),
        ({"devices": 2, "strategy": "ddp_notebook"}, 0, {"devices": 1}),
        ({"devices": 2, "strategy": STRATEGY, "num_nodes": 2}, 2, {"devices": 2, "strategy": STRATEGY, "num_nodes": 2}),
    ],
)
def test_a_trial_trains_on_one_device(
    config: dict[str, Any], gpus: int, single: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    before = dict(config)
    assert ray_trials.single_device_config(config) == single
    assert config == before
