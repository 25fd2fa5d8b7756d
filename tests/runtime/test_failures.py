from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from several_ranks import run_in_threads

from patches.runtime import failures
from patches.runtime.ranks import RankGroup


class DDPStrategy:
    pass


class FSDPStrategy:
    pass


class Model(torch.nn.Module):
    """A model whose training step raises in the given steps, and its trainer."""

    def __init__(self, fails_in: tuple[int, ...] = (), strategy: object = None, max_steps: int = 4) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.frozen = torch.nn.Linear(1, 1).requires_grad_(False)
        self.fails_in = fails_in
        self.logged: list[dict[str, Any]] = []
        self.max_steps = max_steps
        self.attach(DDPStrategy() if strategy is None else strategy)

    def attach(self, strategy: object, world_size: int = 2) -> None:
        self.trainer = SimpleNamespace(
            world_size=world_size,
            strategy=strategy,
            global_step=0,
            fit_loop=SimpleNamespace(done=False),
            datamodule=SimpleNamespace(),
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step in self.fails_in:
            raise ValueError(f"no windows in step {self.trainer.global_step}")
        return self.layer(batch).sum()

    def log(self, name: str, value: float, **more: Any) -> None:
        self.logged.append({"name": name, "value": value, **more})


def fit(model: Model, group: RankGroup) -> list[int]:
    """Train as Lightning does with the hooks, and reduce gradients over all ranks; the finished steps."""
    trainer, done = model.trainer, []
    while not trainer.fit_loop.done:
        failures.guard_training_step(model, group)
        model.zero_grad()
        loss = model.training_step(torch.ones(1), trainer.global_step)
        reduce_gradients(model, group, loss)
        done.append(trainer.global_step)
        trainer.global_step += 1
        failures.raise_error_of_rank(model, group)
        trainer.fit_loop.done = trainer.global_step == model.max_steps
        failures.finish_training(model, group)
    return done


def reduce_gradients(model: Model, group: RankGroup, loss: torch.Tensor) -> None:
    """The backward pass and a barrier of all ranks, at which a rank hangs if another does not arrive."""
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.layer.parameters())
    barrier = group.prefixed("reduce").next_call("step")
    barrier.publish(str(barrier.rank), None)
    for rank in range(barrier.world_size):
        barrier.receive(str(rank))


def fit_models(*models: Model) -> Callable[[RankGroup], list[int]]:
    return lambda group: fit(models[group.rank], group)


def test_a_training_without_an_error_is_unchanged() -> None:
    models = [Model(), Model()]
    assert run_in_threads(2, fit_models(*models)) == [[0, 1, 2, 3]] * 2
    assert not any(model.logged for model in models)
    assert not any("training_step" in vars(model) for model in models)


@pytest.mark.parametrize("step", range(4))
def test_all_ranks_raise_the_error_of_one(step: int) -> None:
    models = [Model(), Model(fails_in=(step,))]
    errors = run_in_threads(2, fit_models(*models))
    assert [(type(error), str(error)) for error in errors] == [(ValueError, f"no windows in step {step}")] * 2
    # at the end of the next step, if there is one
    assert [model.trainer.global_step for model in models] == [min(step + 2, 4)] * 2


def test_the_rank_that_failed_shows_where() -> None:
    errors = run_in_threads(2, fit_models(Model(), Model(fails_in=(1,))))
    assert errors[0].__cause__ is None
    assert str(errors[1].__cause__) == "no windows in step 1"
    frames = inspect.getinnerframes(errors[1].__cause__.__traceback__)
    assert frames[-1].function == "training_step"


def test_of_several_errors_all_ranks_raise_the_same() -> None:
    errors = run_in_threads(3, fit_models(Model(), Model(fails_in=(1, 2)), Model(fails_in=(2,))))
    assert {str(error) for error in errors} == {"no windows in step 1"}
    errors = run_in_threads(2, fit_models(Model(fails_in=(1,)), Model(fails_in=(1,))))
    assert {str(error) for error in errors} == {"no windows in step 1"}


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_be_pickled_is_raised_with_its_message() -> None:
    model = Model()
    model.training_step = lambda *batch: (_ for _ in ()).throw(Unpicklable(1, 2))  # type: ignore[method-assign]
    errors = run_in_threads(2, fit_models(Model(), model))
    assert [type(error) for error in errors] == [RuntimeError] * 2
    assert {str(error) for error in errors} == {"Unpicklable: 1 and 2"}


def test_each_training_has_errors_of_its_own() -> None:
    def fit_twice(group: RankGroup) -> list[int]:
        model = Model(fails_in=(0,) if group.rank else ())
        with pytest.raises(ValueError, match="no windows in step 0"):
            fit(model, group)
        model.fails_in = ()
        model.attach(DDPStrategy())
        return fit(model, group)

    assert run_in_threads(2, fit_twice) == [[0, 1, 2, 3]] * 2


def test_an_epoch_before_the_last_waits_for_no_rank() -> None:
    group = RankGroup(0, 2, dist.HashStore())
    failures.finish_training(Model(), group)


def test_the_failing_step_logs_what_other_ranks_reduce() -> None:
    models = [Model(), Model(fails_in=(1,))]
    models[1].val_monitor = "train_loss"  # type: ignore[assignment]
    run_in_threads(2, fit_models(*models))
    (logged,) = models[1].logged
    assert logged["name"] == "train_loss"
    assert logged["value"] != logged["value"]
    assert logged["sync_dist"]


def test_a_model_that_logs_in_another_way_raises_its_own_error() -> None:
    model = Model(fails_in=(1,))
    model.log = lambda *values, **more: 1 / 0  # type: ignore[assignment, method-assign]
    errors = run_in_threads(2, fit_models(Model(), model))
    assert {str(error) for error in errors} == {"no windows in step 1"}


GROUP = RankGroup(0, 2, dist.HashStore())


@pytest.mark.parametrize(
    ("strategy", "world_size", "group"),
    [(FSDPStrategy(), 2, GROUP), (DDPStrategy(), 1, GROUP), (DDPStrategy(), 2, None)],
    ids=["another strategy", "one process", "no process group"],
)
def test_an_error_that_makes_no_rank_hang_is_raised_unchanged(
    strategy: object, world_size: int, group: RankGroup
) -> None:
    model = Model(fails_in=(0,), strategy=strategy)
    model.attach(strategy, world_size)
    failures.guard_training_step(model, group)
    assert "training_step" not in vars(model)
    failures.raise_error_of_rank(model, group)
    model.trainer.fit_loop.done = True
    failures.finish_training(model, group)


def test_a_training_step_set_on_the_model_is_restored() -> None:
    model = Model()
    own = partial(Model.training_step, model)
    model.training_step = own  # type: ignore[method-assign]
    failures.guard_training_step(model, GROUP)
    assert model.training_step is not own
    model.training_step(torch.ones(1), 0)
    assert model.training_step is own


def test_lightning_finds_the_signature_of_the_step() -> None:
    model = Model()
    failures.guard_training_step(model, GROUP)
    assert list(inspect.signature(model.training_step).parameters) == ["batch", "batch_idx"]


def test_a_guard_whose_batch_was_skipped_is_replaced_in_the_next_training() -> None:
    model, group = Model(fails_in=(0,)), RankGroup(0, 2, dist.HashStore())
    failures.guard_training_step(model, group)
    model.attach(DDPStrategy())
    failures.guard_training_step(model, group)
    model.training_step(torch.ones(1), 0)
    assert "training_step" not in vars(model)
    model.trainer.global_step = 2
    with pytest.raises(ValueError, match="no windows in step 0"):
        failures.raise_error_of_rank(model, group)
