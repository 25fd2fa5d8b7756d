"""Keeps the callbacks that a trainer adds out of saved models.

Lightning adds its own callbacks to the very list that the user gave the model, which is one of the hyperparameters.
They refer to the trainer, and that refers to the processes that Lightning has launched, which cannot be pickled.
"""

from __future__ import annotations

from typing import Any

from . import compat


def remove_added_callbacks(model: Any) -> None:
    """Remove what the trainer has added from the list of the user's callbacks; in one process do nothing.

    The trainer has a list of its own by then. A callback of a class that the user gave stays. Makes no collective call.
    """
    given = model.trainer_kwargs.get("callbacks")
    if model.trainer.world_size == 1 or not isinstance(given, list):
        return
    added = compat.default_callback_classes()
    classes_of_user = {type(callback) for callback in model.hparams_initial.get("callbacks") or ()}
    given[:] = [callback for callback in given if type(callback) in classes_of_user or not isinstance(callback, added)]
