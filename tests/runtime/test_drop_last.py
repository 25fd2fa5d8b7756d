from __future__ import annotations

from types import SimpleNamespace

import pytest

from patches.runtime import drop_last


def model_with(drop_last_loader: bool = True, **trainer: object) -> SimpleNamespace:
    defaults = {"num_training_batches": 0, "limit_train_batches": 1.0, "world_size": 2}
    return SimpleNamespace(
        drop_last_loader=drop_last_loader, batch_size=32, trainer=SimpleNamespace(**{**defaults, **trainer})
    )


def test_a_training_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_last_loader=True.* 2 .*batch_size=32"):
        drop_last.refuse_empty_training(model_with())


@pytest.mark.parametrize(
    "model",
    [
        model_with(num_training_batches=1),
        model_with(world_size=1),
        model_with(limit_train_batches=0),
        model_with(drop_last_loader=False),
    ],
    ids=["trained", "one process", "no batches wanted", "no batch dropped"],
)
def test_other_trainings_are_not(model: SimpleNamespace) -> None:
    drop_last.refuse_empty_training(model)
