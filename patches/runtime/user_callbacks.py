"""Keeps the callbacks that a trainer adds out of saved models.

Lightning adds its own callbacks to the list that the user passed to the model, which is one of the hyperparameters.
They refer to the trainer, which refers to the processes that Lightning has launched, and these cannot be pickled.
"""

from __future__ import annotations

from typing import Any

from . import compat


def remove_added_callbacks(model: Any) -> None:
    """Remove the callbacks that the trainer has added from the user's list. Does nothing in one process.

    The trainer has its own list by then. Callbacks of a class that the user passed are kept. Makes no collective call.
    """
    given = model.trainer_kwargs.get("callbacks")
    if model.trainer.world_size == 1 or not isinstance(given, list):
        return
    added = compat.default_callback_classes()
    classes_of_user = {type(callback) for callback in model.hparams_initial.get("callbacks") or ()}
    given[:] = [callback for callback in given if type(callback) in classes_of_user or not isinstance(callback, added)]
