"""Two GPUs for the eyes of Lightning and neuralforecast, each of which is the CPU. To be imported before both.

It shows which way the code takes where there are GPUs, not what CUDA does.
"""

import os

import torch
from pytorch_lightning.accelerators import CUDAAccelerator


def gpus():
    """As many as CUDA_VISIBLE_DEVICES leaves, which ray sets for an actor."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(visible.split(",")) if visible else 2


def parsed(devices):
    if isinstance(devices, (list, tuple)):
        return list(devices)
    return list(range(gpus() if devices in (-1, "-1", "auto") else int(devices)))


torch.cuda.device_count = gpus
CUDAAccelerator.is_available = staticmethod(lambda: True)
CUDAAccelerator.auto_device_count = staticmethod(gpus)
CUDAAccelerator.parse_devices = staticmethod(parsed)
CUDAAccelerator.get_parallel_devices = staticmethod(lambda devices: [torch.device("cpu")] * len(devices))
CUDAAccelerator.setup_device = lambda self, device: None
CUDAAccelerator.setup = lambda self, trainer: None
CUDAAccelerator.teardown = lambda self: None
CUDAAccelerator.get_device_stats = lambda self, device: {}
