from __future__ import annotations

from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    ModelSummary,
    TQDMProgressBar,
)

from patches.runtime import user_callbacks


class OfUser(Callback):
    pass


def remaining(given: object, of_user: object, world_size: int = 2) -> list[str]:
    """The classes of the callbacks left in the list, which must be the same object."""
    model = SimpleNamespace(
        trainer=SimpleNamespace(world_size=world_size),
        trainer_kwargs={"callbacks": given},
        hparams_initial={"callbacks": of_user},
    )
    user_callbacks.remove_added_callbacks(model)
    assert model.trainer_kwargs["callbacks"] is given
    return [type(callback).__name__ for callback in given]  # type: ignore[attr-defined]


def test_callbacks_that_the_trainer_added_are_removed() -> None:
    given = [OfUser(), EarlyStopping("loss"), TQDMProgressBar(), ModelSummary(), ModelCheckpoint()]
    assert remaining(given, of_user=[OfUser()]) == ["OfUser", "EarlyStopping"]


@pytest.mark.parametrize("of_user", [None, []])
def test_the_callback_of_early_stopping_is_kept(of_user: object) -> None:
    assert remaining([EarlyStopping("loss"), TQDMProgressBar()], of_user) == ["EarlyStopping"]


def test_a_callback_of_a_class_that_the_user_passed_is_kept() -> None:
    given = [ModelCheckpoint(), TQDMProgressBar()]
    assert remaining(given, of_user=[ModelCheckpoint()]) == ["ModelCheckpoint"]


def test_one_process_keeps_all_callbacks() -> None:
    assert remaining([OfUser(), TQDMProgressBar()], [OfUser()], world_size=1) == ["OfUser", "TQDMProgressBar"]


@pytest.mark.parametrize("kwargs", [{}, {"callbacks": None}, {"callbacks": TQDMProgressBar()}])
def test_callbacks_that_are_not_a_list_are_unchanged(kwargs: dict[str, object]) -> None:
    model = SimpleNamespace(trainer=SimpleNamespace(world_size=2), trainer_kwargs=dict(kwargs), hparams_initial={})
    user_callbacks.remove_added_callbacks(model)
    assert model.trainer_kwargs == kwargs
