from types import SimpleNamespace
from typing import Any, Callable, Optional

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler

from patches.runtime import sampling

CPU = torch.device("cpu")


class Model(pl.LightningModule):
    """The attributes of a model that the functions read."""

    MULTIVARIATE = False
    windows_batch_size = 4
    batch_size = 4
    random_seed = 3


class Multivariate(Model):
    MULTIVARIATE = True


def place(rank: int, world_size: int, n_series: Optional[int]) -> Any:
    datamodule = None if n_series is None else SimpleNamespace(dataset=SimpleNamespace(n_groups=n_series))
    return SimpleNamespace(global_rank=rank, world_size=world_size, datamodule=datamodule)


def model_on(rank: int, world_size: int, n_series: Optional[int] = 1, of: Callable[[], Model] = Model) -> Model:
    model = of()
    model._trainer = place(rank, world_size, n_series)
    return model


def draw_on_each_rank(draw: Callable[[Model], Any], models: list[Model]) -> list[Any]:
    """The draws of ranks that all have the same random state."""
    drawn = []
    for model in models:
        np.random.seed(1)
        torch.manual_seed(1)
        drawn.append(draw(model))
    return drawn


def ranks(world_size: int, n_series: Optional[int] = 1, of: Callable[[], Model] = Model) -> list[Model]:
    return [model_on(rank, world_size, n_series, of) for rank in range(world_size)]


def released_draw(n_windows: int, size: int) -> Any:
    """The draw of the unpatched source up to 3.1.3."""
    np.random.seed(1)
    return np.random.choice(n_windows, size=size, replace=(n_windows < size))


def released_draw_by_torch(n_windows: int, size: int) -> torch.Tensor:
    """The draw of the unpatched source from 3.1.4 on."""
    torch.manual_seed(1)
    if n_windows < size:
        return torch.randint(0, n_windows, size=(size,), device=CPU)
    return torch.randperm(n_windows, device=CPU)[:size]


NUMPY_DRAWS = [(sampling.draw_windows, Model), (sampling.draw_windows_of_all_series, Multivariate)]


@pytest.mark.parametrize("n_windows", [3, 4, 20])
@pytest.mark.parametrize(("draw", "of"), NUMPY_DRAWS)
def test_one_process_draws_what_the_unpatched_source_draws(draw, of, n_windows):
    for model in (of(), model_on(0, 1, of=of)):
        np.random.seed(1)
        np.testing.assert_array_equal(draw(model, n_windows), released_draw(n_windows, 4))
        assert np.random.random() == (released_draw(n_windows, 4), np.random.random())[1], "random state"


@pytest.mark.parametrize("n_windows", [3, 4, 20])
def test_one_process_draws_by_torch_what_the_unpatched_source_draws(n_windows):
    for model in (Model(), model_on(0, 1), model_on(0, 1, of=Multivariate)):
        torch.manual_seed(1)
        assert torch.equal(sampling.draw_on_device(model, n_windows, CPU), released_draw_by_torch(n_windows, 4))
        assert torch.equal(torch.rand(2), (released_draw_by_torch(n_windows, 4), torch.rand(2))[1]), "random state"


def test_one_process_draws_the_start_that_the_unpatched_source_draws():
    np.random.seed(1)
    start = np.random.choice(50)
    for model in (Model(), model_on(0, 1)):
        np.random.seed(1)
        assert sampling.draw_start(model, 50) == start


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("draw", "of"), NUMPY_DRAWS)
def test_ranks_with_the_same_series_take_shares_of_one_draw(draw, of, world_size):
    for n_windows in (5, 100):
        drawn = draw_on_each_rank(lambda model, n=n_windows: draw(model, n), ranks(world_size, of=of))
        together = np.stack(drawn, axis=1).reshape(-1)
        np.testing.assert_array_equal(together, released_draw(n_windows, 4 * world_size))
        assert all(len(own) == 4 for own in drawn)


@pytest.mark.parametrize("n_windows", [5, 100])
def test_ranks_with_the_same_series_take_shares_of_one_draw_by_torch(n_windows):
    drawn = draw_on_each_rank(lambda model: sampling.draw_on_device(model, n_windows, CPU), ranks(2))
    assert torch.equal(torch.stack(drawn, dim=1).flatten(), released_draw_by_torch(n_windows, 8))


def test_windows_are_different_on_each_rank_where_there_are_enough():
    drawn = draw_on_each_rank(lambda model: sampling.draw_windows(model, 100), ranks(3, n_series=2))
    assert len({index for own in drawn for index in own}) == 12


def test_ranks_with_the_same_series_start_at_different_times():
    np.random.seed(1)
    starts = [np.random.choice(50) for _ in range(2)]
    assert draw_on_each_rank(lambda model: sampling.draw_start(model, 50), ranks(2)) == starts


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(ranks(2, n_series=2), id="as many series as ranks"),
        pytest.param(ranks(2, n_series=None), id="a training without a data module"),
        pytest.param(ranks(2, of=Multivariate), id="windows that are sharded already"),
    ],
)
def test_ranks_with_series_or_windows_of_their_own_draw_for_themselves(models):
    for model in models:
        np.random.seed(1)
        np.testing.assert_array_equal(sampling.draw_windows(model, 20), released_draw(20, 4))
        torch.manual_seed(1)
        assert torch.equal(sampling.draw_on_device(model, 20, CPU), released_draw_by_torch(20, 4))


def loader_of(sampler: Any = None, **options: Any) -> "DataLoader[int]":
    return DataLoader(list(range(8)), batch_size=4, sampler=sampler, **options)  # type: ignore[arg-type]


class OwnBatches(BatchSampler):
    """Batches of the user's own, which are sharded."""

    num_replicas = 2


SHARE = DistributedSampler(list(range(8)), num_replicas=2, rank=1)  # type: ignore[arg-type]
EVERYTHING = DistributedSampler(list(range(8)), num_replicas=1, rank=0)  # type: ignore[arg-type]
# The loader of the ranks -> whether all ranks have the same series, and enough of them.
LOADERS = {
    "in order": (loader_of(), True),
    "shuffled": (loader_of(shuffle=True), True),
    "a sampler of everything": (loader_of(EVERYTHING), True),
    "Lightning's or the user's shares": (loader_of(SHARE), False),
    "batches of a share": (DataLoader(list(range(8)), batch_sampler=BatchSampler(SHARE, 4, False)), False),
    "sharded batches": (
        DataLoader(list(range(8)), batch_sampler=OwnBatches(RandomSampler(range(8)), 4, drop_last=False)),
        False,
    ),
    "none yet": (None, False),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["Lightning 2", "Lightning 1.6"])
@pytest.mark.parametrize("name", LOADERS)
def test_ranks_whose_loaders_shard_nothing_take_shares_of_one_draw(name, wrapped):
    loader, is_shared = LOADERS[name]
    models = ranks(2, n_series=8)
    for model in models:
        model._trainer.train_dataloader = SimpleNamespace(loaders=loader) if wrapped else loader
    drawn = draw_on_each_rank(lambda model: sampling.draw_windows(model, 100), models)
    expected = released_draw(100, 8) if is_shared else np.repeat(released_draw(100, 4), 2)
    np.testing.assert_array_equal(np.stack(drawn, axis=1).reshape(-1), expected)
    torch_drawn = draw_on_each_rank(lambda model: sampling.draw_on_device(model, 100, CPU), models)
    assert torch.equal(*torch_drawn) is not is_shared


def test_ranks_with_files_of_their_own_draw_for_themselves():
    models = ranks(2, n_series=8)
    for model in models:
        model._trainer.train_dataloader = loader_of()
        model._trainer.datamodule.files_ds = ["a file"]
    drawn = draw_on_each_rank(lambda model: sampling.draw_windows(model, 100), models)
    np.testing.assert_array_equal(drawn, [released_draw(100, 4)] * 2)


@pytest.mark.parametrize(("n_windows", "expected"), [(5, [[0, 2, 4], [1, 3]]), (2, [[0], [1]])])
def test_multivariate_windows_are_sharded(n_windows, expected):
    models = ranks(2, of=Multivariate)
    assert [sampling.shard_windows(model, torch.arange(n_windows)).tolist() for model in models] == expected


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model_on(1, 3, of=Multivariate), id="fewer windows than ranks"),
        pytest.param(model_on(0, 1, of=Multivariate), id="one process"),
        pytest.param(Multivariate(), id="no trainer"),
        pytest.param(model_on(1, 2), id="a univariate model"),
    ],
)
def test_windows_are_not_sharded(model):
    windows = torch.arange(2)
    assert sampling.shard_windows(model, windows) is windows


def datamodule_on(rank: int, world_size: int, model: Model, shuffle: bool = True) -> Any:
    trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=model)
    return SimpleNamespace(dataset=list(range(8)), shuffle_train=shuffle, trainer=trainer)


def test_every_rank_has_all_series_in_one_order():
    orders = []
    for rank in range(2):
        torch.manual_seed(rank)  # random states that differ
        sampler = sampling.train_sampler(datamodule_on(rank, 2, Multivariate()))
        assert sampler is not None
        sampler.set_epoch(1)
        orders.append(list(sampler))
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(8))
    assert orders[0] != list(range(8))


def test_the_order_changes_with_the_epoch_and_the_seed():
    sampler = sampling.train_sampler(datamodule_on(0, 2, Multivariate()))
    assert sampler is not None
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first

    model = Multivariate()
    model.random_seed = 4
    other = sampling.train_sampler(datamodule_on(0, 2, model))
    assert other is not None
    assert list(other) != first


def test_the_series_keep_their_order_where_the_data_module_does_not_shuffle():
    sampler = sampling.train_sampler(datamodule_on(0, 2, Multivariate(), shuffle=False))
    assert sampler is not None
    assert list(sampler) == list(range(8))


@pytest.mark.parametrize(
    "datamodule",
    [
        pytest.param(SimpleNamespace(trainer=None), id="no trainer"),
        pytest.param(datamodule_on(0, 1, Multivariate()), id="one process"),
        pytest.param(datamodule_on(0, 2, Model()), id="a univariate model"),
    ],
)
def test_other_trainings_keep_their_sampler(datamodule):
    assert sampling.train_sampler(datamodule) is None
