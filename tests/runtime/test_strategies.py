from __future__ import annotations

import pytest
from pytorch_lightning.strategies import DDPStrategy

from patches.runtime import strategies


def test_each_trainer_gets_its_own_strategy() -> None:
    given = DDPStrategy(find_unused_parameters=True)
    kwargs = {"strategy": given, "devices": 2, "callbacks": []}
    first, second = (strategies.with_fresh_strategy(kwargs) for _ in range(2))
    assert kwargs["strategy"] is given
    assert len({id(each["strategy"]) for each in (kwargs, first, second)}) == 3
    assert first["strategy"]._ddp_kwargs == {"find_unused_parameters": True}
    assert first["callbacks"] is kwargs["callbacks"]


@pytest.mark.parametrize("kwargs", [{"devices": 2}, {"strategy": None}, {"strategy": "ddp_spawn"}])
def test_arguments_without_a_strategy_object_are_unchanged(kwargs: dict[str, object]) -> None:
    assert strategies.with_fresh_strategy(kwargs) is kwargs
