"""The devices, strategy and accelerator that a rehearsal gives to a trainer, with a real Lightning."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment

PROGRAM = """
import json, sys
from types import SimpleNamespace
import torch
from nfpatch.target.rehearsal.overrides import apply_device_overrides, is_for_one_device
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

class OwnSingle(SingleDeviceStrategy): pass
class OwnDDP(DDPStrategy): pass
class OwnGPU(CUDAAccelerator): pass
class OwnCPU(CPUAccelerator): pass
class OwnStrategy(Strategy): pass
OwnStrategy.__abstractmethods__ = frozenset()

recorder = SimpleNamespace(spec=SimpleNamespace(devices=2))
found = []
for arguments in (eval(line) for line in sys.stdin):
    changes = apply_device_overrides(recorder, arguments)
    kept = {name: value for name, value in arguments.items() if name not in ("strategy", "accelerator")}
    accelerator = arguments.get("accelerator")
    found.append({
        **kept,
        "accelerator": accelerator if isinstance(accelerator, (str, type(None))) else type(accelerator).__name__,
        "one": is_for_one_device(arguments.get("strategy")),
        "parallel": getattr(arguments.get("strategy"), "parallel_devices", None) is not None,
        "changes": len(changes),
    })
print(json.dumps(found))
"""
# Arguments on a machine with GPUs -> accelerator, devices, whether the strategy is for one device, whether it has a
# list of devices, and the number of reported changes
CASES: dict[str, tuple[object, object, bool, bool, int]] = {
    "accelerator='gpu', devices=-1": ("gpu", -1, False, False, 0),
    "accelerator='gpu', devices=1": ("gpu", 2, False, False, 1),
    "accelerator='mps', devices=1": ("gpu", 2, False, False, 2),
    "accelerator='cpu', devices=1": ("cpu", 2, False, False, 1),
    "accelerator=OwnCPU(), devices=-1": ("OwnCPU", 2, False, False, 1),
    "accelerator=OwnGPU(), devices=-1": ("OwnGPU", -1, False, False, 0),
    "strategy='ddp', accelerator='gpu', devices=[0, 1, 2]": ("gpu", 2, False, False, 1),
    "strategy=OwnDDP(), accelerator='gpu', devices=-1": ("gpu", -1, False, False, 0),
    "strategy=OwnDDP(accelerator=CPUAccelerator()), accelerator='gpu', devices=-1": (None, 2, False, False, 2),
    "strategy=DDPStrategy(parallel_devices=[torch.device('cuda', 0)]), accelerator='gpu', devices=1": (
        *("gpu", 2, False, False, 2),
    ),
    "strategy=OwnSingle('cpu'), accelerator='gpu', devices=-1": ("gpu", 1, True, False, 1),
    "strategy=SingleDeviceStrategy('cpu', CPUAccelerator()), accelerator='gpu', devices=1": (None, 1, True, False, 1),
    "strategy=OwnStrategy(), accelerator='gpu', devices=4": ("gpu", 1, True, False, 1),
}


@pytest.fixture(scope="module")
def overridden(training_env: Path) -> dict[str, Any]:
    """The arguments of each case after the overrides."""
    done = subprocess.run(
        [training_env, "-c", PROGRAM],
        input="".join(f"dict({arguments})\n" for arguments in CASES),
        env=environment(ROOT),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1])))


@pytest.mark.parametrize("arguments", CASES)
def test_strategy_objects_are_not_combined_with_arguments_they_reject(
    overridden: dict[str, Any], arguments: str
) -> None:
    found = overridden[arguments]
    actual = tuple(found[name] for name in ("accelerator", "devices", "one", "parallel", "changes"))
    assert actual == CASES[arguments]
