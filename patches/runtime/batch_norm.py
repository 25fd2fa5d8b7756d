"""Synchronizes the statistics of batch normalization after a training.

DDP broadcasts the running statistics of rank 0 before each training step, in which each rank adds its own batch.
After the last step they are not broadcast, unless a validation follows.
"""

from __future__ import annotations

from typing import Any

import torch

from .ranks import group_of_trainer


def broadcast_statistics(model: Any) -> None:
    """Give every rank the running statistics of rank 0.

    Does nothing in one process. Makes one broadcast for each buffer of a batch normalization, so that every rank of the
    trainer must call it.
    """
    if group_of_trainer(model.trainer) is None:
        return
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for statistics in module.buffers(recurse=False):
                torch.distributed.broadcast(statistics, 0)
