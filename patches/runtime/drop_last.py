"""Raises an error for a training without batches, which would return an untrained model."""

from __future__ import annotations

from typing import Any


def refuse_empty_training(model: Any) -> None:
    """Raise ValueError if `drop_last_loader=True` left this rank no batch. Does nothing in one process.

    Each rank gets a shard of the series, and Lightning skips a training without batches silently. Makes no collective
    call: the ranks have equally many batches, so that all of them raise.
    """
    trainer = model.trainer
    is_skipped = trainer.num_training_batches == 0 and trainer.limit_train_batches
    if model.drop_last_loader and is_skipped and trainer.world_size > 1:
        raise ValueError(
            f"drop_last_loader=True has left no batch: each of {trainer.world_size} processes has fewer series than "
            f"batch_size={model.batch_size}. Set batch_size to at most the number of series divided by the number of "
            "processes, or drop_last_loader=False."
        )
