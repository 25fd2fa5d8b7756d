"""The validation of several ranks: the loss that one process computes.

Many losses (RMSE, MASE, any with a mask) are no mean of their parts, so the losses of shards cannot be weighted to the
loss of all series. So every rank validates all series.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Optional

import torch
from torch.utils.data import DistributedSampler

from . import sampling


def whole_dataset_sampler(datamodule: Any) -> Optional[DistributedSampler[Any]]:
    """A sampler that gives every rank all series, in their order; None in one process.

    Takes the data module whose dataset is validated. Nothing is communicated.
    """
    if datamodule.trainer is None or datamodule.trainer.world_size == 1:
        return None
    return sampling.sample_everything(datamodule.dataset, shuffle=False)


def mean_over_ranks(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """The mean of the ranks' losses, which is the same on all of them also where a loss draws samples.

    A collective (all-reduce) of the trainer's strategy: every rank has to make the call. The loss itself in one
    process.
    """
    mean: torch.Tensor = model.trainer.strategy.reduce(loss)
    return mean


def freeze_layers(valid_loss: Any, loss: Any) -> Any:
    """The validation loss of a model; a frozen copy if it has layers and is not the training loss.

    Only the validation uses the layers of such a loss, so they get no gradient. It is a copy as the user may train
    another model with the one that was passed.
    """
    if valid_loss is loss or not hasattr(valid_loss, "parameters"):
        return valid_loss
    if not any(parameter.requires_grad for parameter in valid_loss.parameters()):
        return valid_loss
    return deepcopy(valid_loss).requires_grad_(False)
