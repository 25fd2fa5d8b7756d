import random
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from several_ranks import run_in_processes, run_in_threads
from torch.utils.data import DataLoader, Dataset

from patches.runtime import meetings, prediction
from patches.runtime.digests import class_name
from patches.runtime.ranks import current_group


class Series(Dataset):
    """A dataset with the values that are compared between ranks, as in neuralforecast."""

    def __init__(self, values):
        self.temporal = torch.as_tensor(values, dtype=torch.float32)
        self.temporal_cols = np.array(["y"], dtype=object)
        self.indptr = np.arange(len(self.temporal) + 1)
        self.static = None

    def __len__(self):
        return len(self.temporal)

    def __getitem__(self, index):
        if not isinstance(index, int):
            raise TypeError(f"{index} is no int")
        return self.temporal[index]


class Data(pl.LightningDataModule):
    def __init__(self, dataset, batch_size=2, **kwargs):
        super().__init__()
        self.dataset, self.batch_size, self.kwargs = dataset, batch_size, kwargs

    def predict_dataloader(self):
        return DataLoader(self.dataset, batch_size=self.batch_size, **self.kwargs)


class Model(pl.LightningModule):
    """Predicts from the whole batch, so that a batch of different series gives different values."""

    def __init__(self, factor=2.0, devices=2):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(factor))
        self.loss = torch.nn.L1Loss()
        self.trainer_kwargs = {"accelerator": "cpu", "devices": devices}
        self.train_trajectories = [(0, random.random())]  # differs from rank to rank
        self.quantiles = [0.1, 0.9]
        self.seen = []

    def predict_step(self, batch, batch_idx):
        self._log_batch(batch)
        return (batch - batch.mean()) * self.weight.detach()

    def _log_batch(self, batch):
        self.seen = [*self.seen, batch.tolist()]


class DrawingModel(Model):
    def predict_step(self, batch, batch_idx):
        return super().predict_step(batch, batch_idx) + torch.rand(1) + np.random.rand()


class MockTrainer:
    """A trainer of one device for use in a thread: only the model's own generator is used."""

    world_size, limit_predict_batches, precision = 1, 1.0, 32

    def __init__(self, *callbacks):
        self.callbacks = [pl.callbacks.ModelSummary(), *callbacks]
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))

    def predict(self, model, datamodule):
        loader = datamodule.predict_dataloader()
        outputs = []
        for number, indices in enumerate(loader.batch_sampler):
            for callback in self.callbacks:
                callback.on_predict_batch_start(self, model, None, number)
            outputs.append(model.predict_step(torch.stack([loader.dataset[index] for index in indices]), number))
            for callback in self.callbacks:
                callback.on_predict_batch_end(self, model, outputs[-1], None, number)
        return outputs


VALUES = torch.arange(22.0).reshape(11, 2).sin() * 1e4


def reference(values=VALUES, factor=2.0, **kwargs):
    """The predictions of one process."""
    return MockTrainer().predict(Model(factor), Data(Series(values), **kwargs))


def is_same(outputs, expected):
    return len(outputs) == len(expected) and all(map(torch.equal, outputs, expected))


def n_seen(model):
    return len(model.seen)


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch):
    """Short deadlines, which suffice for ranks that are threads of one machine."""
    monkeypatch.setattr(meetings, "LOST_SECONDS", 0.3)
    monkeypatch.setattr(meetings, "PATIENCE_SECONDS", 5.0)


def in_ranks(world_size, make, n_calls=1):
    """The outputs of each rank's last call and the number of batches that its models have predicted, or its error."""

    def rank(group):
        for _ in range(n_calls):
            model, data = make(group)
            outputs = prediction.predict(MockTrainer(), model, data, group)
        return outputs, n_seen(model)

    return run_in_threads(world_size, rank)


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 6])
def test_ranks_share_the_batches_and_get_the_results_of_one(world_size, batch_size):
    results = in_ranks(world_size, lambda _: (Model(), Data(Series(VALUES), batch_size)), n_calls=2)
    expected = reference(batch_size=batch_size)
    assert all(is_same(outputs, expected) for outputs, _ in results)
    n_batches = len(expected)
    assert [n for _, n in results] == [max(1, len(range(rank, n_batches, world_size))) for rank in range(world_size)]


def test_large_results_come_in_chunks(monkeypatch):
    monkeypatch.setattr(meetings, "CHUNK_BYTES", 100)
    assert all(is_same(outputs, reference()) for outputs, _ in in_ranks(2, lambda _: (Model(), Data(Series(VALUES)))))


def changed_values(rank):
    values = VALUES.clone()
    values[4, 1] += rank
    return values


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda rank: (Model(2.0 + rank), Data(Series(VALUES))), id="weights"),
        pytest.param(lambda rank: (Model(), Data(Series(changed_values(rank)))), id="values"),
        pytest.param(lambda rank: (Model(), Data(Series(VALUES[: 11 - rank]))), id="series"),
        pytest.param(lambda rank: (Model(), Data(Series(VALUES), 2 + rank)), id="batch size"),
        pytest.param(lambda rank: (Model(), Data(Series(VALUES), 2 + 20 * rank)), id="one batch on a rank"),
        pytest.param(lambda rank: (vary(Model(), quantiles=[0.1, 0.9][rank:]), Data(Series(VALUES))), id="quantiles"),
        pytest.param(lambda rank: (vary(Model(), loss=[torch.nn.L1Loss(), torch.nn.MSELoss()][rank]),
                                   Data(Series(VALUES))), id="loss"),
    ],
)  # fmt: skip
def test_ranks_that_predict_different_data_predict_by_themselves(make):
    results = in_ranks(2, lambda group: make(group.rank))
    for rank, (outputs, n) in enumerate(results):
        model, data = make(rank)
        expected = MockTrainer().predict(model, data)
        assert is_same(outputs, expected)
        assert n == len(expected)


def vary(instance, **attributes):
    for name, value in attributes.items():
        setattr(instance, name, value)
    return instance


def test_a_single_rank_predicts_all(monkeypatch):
    monkeypatch.setattr(meetings, "MEETING_SECONDS", 0.0)

    def rank(group):
        if group.rank > 0:
            return None
        with pytest.warns(UserWarning, match=r"^Rank 0\b"):
            return prediction.predict(MockTrainer(), Model(), Data(Series(VALUES)), group)

    assert is_same(run_in_threads(2, rank)[0], reference())


class FailingModel(Model):
    def predict_step(self, batch, batch_idx):
        if self.seen:
            raise ValueError("own loss")
        return super().predict_step(batch, batch_idx)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_others_predict_what_a_rank_fails_to(world_size):
    def rank(group):
        model = Model()
        if group.rank == 1:
            model._log_batch = lambda batch: 1 / 0
        return prediction.predict(MockTrainer(), model, Data(Series(VALUES)), group)

    results = run_in_threads(world_size, rank)
    assert isinstance(results.pop(1), ZeroDivisionError)
    assert all(is_same(outputs, reference()) for outputs in results)


def test_an_error_in_a_batch_is_raised_on_every_rank():
    results = in_ranks(2, lambda _: (FailingModel(), Data(Series(VALUES))))
    assert [str(result) for result in results] == ["own loss"] * 2


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_others_predict_the_batches_of_a_rank_that_ends(monkeypatch, world_size):
    """Rank 1 agrees to share, and then publishes nothing and sends no heartbeat."""

    monkeypatch.setattr(prediction, "compute_digest", lambda *_: "token")

    def rank(group):
        model, data, trainer = Model(), Data(Series(VALUES)), MockTrainer()
        if group.rank == 1:
            return meetings.attend(group, "token") is not None
        shared = prediction.predict(trainer, model, data, group)
        return [shared, prediction.predict(trainer, model, data, group)]

    results = run_in_threads(world_size, rank)
    assert results.pop(1)
    assert all(is_same(outputs, reference()) for both in results for outputs in both)


def test_a_store_that_ends_leaves_the_batches_to_each_rank(monkeypatch):
    monkeypatch.setattr(meetings.SharedCall, "_wait_for", lambda *_: 1 / 0)
    results = in_ranks(2, lambda _: (Model(), Data(Series(VALUES))))
    assert all(is_same(outputs, reference()) for outputs, _ in results)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: (MockTrainer(), Model(), Data(Series(VALUES), 11)), id="one batch"),
        pytest.param(lambda: (MockTrainer(), DistributionModel(), Data(Series(VALUES))), id="distribution"),
        pytest.param(lambda: (vary(MockTrainer(), limit_predict_batches=2), Model(), Data(Series(VALUES))), id="limit"),
        pytest.param(lambda: (MockTrainer(OwnCallback()), Model(), Data(Series(VALUES))), id="callback"),
        pytest.param(lambda: (MockTrainer(), HookedModel(), Data(Series(VALUES))), id="hook"),
        pytest.param(lambda: (MockTrainer(), Model(), Data(Series(VALUES), shuffle=True)), id="shuffled"),
        pytest.param(lambda: (MockTrainer(), Model(), Data(vary(Series(VALUES), own=object()))), id="own data set"),
        pytest.param(lambda: (vary(MockTrainer(), world_size=2), Model(), Data(Series(VALUES))), id="own trainer"),
        pytest.param(lambda: (MockTrainer(), Model(devices=1), Data(Series(VALUES))), id="one device"),
    ],
)  # fmt: skip
def test_predictions_that_cannot_be_shared_are_made_by_each_rank_without_waiting(make):
    def rank(group):
        trainer, model, data = make()
        prediction.predict(trainer, model, data, group)
        return n_seen(model), len(data.predict_dataloader())

    for _ in range(2):
        for n, n_batches in run_in_threads(2, lambda group: rank(group) if group.rank == 0 else (0, 0)):
            assert n == n_batches


class Distribution(torch.nn.L1Loss):
    is_distribution_output = True


class DistributionModel(Model):
    def __init__(self):
        super().__init__()
        self.loss = Distribution()


class OwnCallback(pl.Callback):
    def on_predict_batch_end(self, *_):
        pass


class HookedModel(Model):
    def on_predict_epoch_end(self):
        pass


def test_callbacks_without_prediction_hooks_do_not_prevent_sharing():
    trainer = MockTrainer(pl.callbacks.EarlyStopping("x"), pl.callbacks.TQDMProgressBar())
    assert len(prediction._list_batches(trainer, Model(), Data(Series(VALUES)))) == 6


def test_a_model_that_draws_random_numbers_is_predicted_by_each_rank_and_then_known():
    def rank(group):
        seen = []
        for _ in range(2):
            model = DrawingModel()
            outputs = prediction.predict(MockTrainer(), model, Data(Series(VALUES)), group)
            seen.append((len(outputs), n_seen(model)))
        return seen

    assert run_in_threads(2, rank) == [[(6, 3 + 6), (6, 6)]] * 2


def test_batches_that_are_missing_may_draw_random_numbers(monkeypatch):
    monkeypatch.setattr(meetings.SharedCall, "receive", lambda *_: meetings.Part((), "lost"))

    class LateDrawing(Model):
        def predict_step(self, batch, batch_idx):
            if len(self.seen) == 4:
                torch.rand(1)
            return super().predict_step(batch, batch_idx)

    results = in_ranks(2, lambda _: (LateDrawing(), Data(Series(VALUES))))
    assert all(is_same(outputs, reference()) and n == 3 + 3 + 6 for outputs, n in results)


def test_an_interrupt_that_lightning_has_caught_is_raised():
    class Interrupted(MockTrainer):
        def predict(self, model, datamodule):
            return None

    with pytest.raises(KeyboardInterrupt):
        prediction._predict_some(Interrupted(), Model(), Data(Series(VALUES)), [range(2)], [0], pl.Callback())


def test_one_process_predicts_as_without_the_patch():
    trainer = SimpleNamespace(world_size=1, predict=lambda model, datamodule: (model, datamodule))
    model, data = Model(), Data(Series(VALUES))
    assert prediction.predict(trainer, model, data) == (model, data)


# --- predict_insample, from 3.0.0 on


SERIES = [VALUES[:number] for number in range(1, 8)]


def predict_series(group, model, step_size=1, datasets=None):
    """Predict each series by itself, as `predict_insample` does; the results of all."""
    results = []
    datasets = datasets or [Series(values) for values in SERIES]
    for _, dataset in prediction.share_series([model], datasets, results, step_size, group=group):
        results.append(torch.vstack(prediction.predict(MockTrainer(), model, Data(dataset, len(dataset)), group)))
    return results


def reference_of_series():
    return [torch.vstack(reference(values, batch_size=len(values))) for values in SERIES]


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_ranks_share_the_series_in_one_call(world_size):
    def rank(group):
        outcomes, datasets = [], [Series(values) for values in SERIES]
        for _ in range(2):  # 3.0.0 has a loop for each model, over the same data sets
            model = Model()
            is_right = is_same(predict_series(group, model, datasets=datasets), reference_of_series())
            n_calls = group.store.add(f"{meetings.NAME}/calls/{group.rank}", 0)
            outcomes.append((is_right, n_seen(model), n_calls))
        return outcomes

    for number, outcomes in enumerate(run_in_threads(world_size, rank)):
        n = max(1, len(range(number, len(SERIES), world_size)))
        assert outcomes == [(True, n, 1), (True, n, 2)]


def test_the_inner_model_of_hint_is_the_one_that_predicts():
    def rank(group):
        model, results = Model(), []
        datasets = [Series(values) for values in SERIES]
        for _, dataset in prediction.share_series([SimpleNamespace(model=model)], datasets, results, 1, group=group):
            results.append(torch.vstack(prediction.predict(MockTrainer(), model, Data(dataset, len(dataset)), group)))
        return is_same(results, reference_of_series()) and n_seen(model)

    assert run_in_threads(2, rank) == [4, 3]


def with_callback():
    model = Model()
    model.trainer_kwargs["callbacks"] = OwnCallback()
    return model


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        pytest.param(Model, (1, 2), id="steps"),
        pytest.param(lambda: DistributionModel(), (1, 1), id="distribution"),
        pytest.param(with_callback, (1, 1), id="callback"),
        pytest.param(lambda: Model(devices=1), (1, 1), id="one device"),
    ],
)
def test_series_that_cannot_be_shared_are_predicted_by_each_rank(make, steps):
    def rank(group):
        model = make()
        return is_same(predict_series(group, model, steps[group.rank]), reference_of_series()) and n_seen(model)

    assert run_in_threads(2, rank) == [len(SERIES)] * 2


def test_series_that_draw_random_numbers_are_predicted_by_each_rank_and_then_known():
    def rank(group):
        model = DrawingModel()
        seen = []
        for _ in range(2):
            model.seen = []
            seen.append((len(predict_series(group, model)), n_seen(model)))
        return seen

    n = len(SERIES)
    assert run_in_threads(2, rank) == [[(n, 4 + n), (n, n)], [(n, 3 + n), (n, n)]]


def test_the_others_predict_the_series_that_a_rank_fails_to():
    def rank(group):
        model = Model()
        if group.rank == 1:
            model._log_batch = lambda batch: 1 / 0
        return predict_series(group, model), n_seen(model)

    first, failed = run_in_threads(2, rank)
    assert isinstance(failed, ZeroDivisionError)
    assert is_same(first[0], reference_of_series())
    assert first[1] == len(SERIES)


def test_one_process_predicts_all_series():
    assert is_same(predict_series(None, Model()), reference_of_series())


# --- random numbers


def test_random_states_are_compared_and_restored():
    draws = [random.random, np.random.rand, lambda: torch.rand(1).item()]
    for draw in draws:
        watch, model = prediction._RandomWatch(), Model()
        watch.on_predict_batch_start()
        before = prediction._random_states()
        watch.on_predict_batch_end(None, model)
        assert not watch.drawn_by
        value = draw()
        watch.on_predict_batch_end(None, model)
        assert watch.drawn_by == {class_name(model)}
        prediction._set_random_states(before)
        assert draw() == value


def test_the_random_state_of_the_gpu_counts(monkeypatch):
    state = [torch.zeros(3)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: state[0])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new: state.__setitem__(0, new))
    before = prediction._random_states()
    watch = prediction._RandomWatch()
    watch.on_predict_batch_start()
    state[0] = torch.ones(3)
    watch.on_predict_batch_end(None, Model())
    assert watch.drawn_by
    prediction._set_random_states(before)
    assert torch.equal(state[0], torch.zeros(3))


# --- with Lightning itself


def predict_by_lightning(model_class):
    """The outputs of a real trainer on this rank, its number of batches, and a random number drawn afterwards."""
    torch.manual_seed(1)
    np.random.seed(1)
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    model, data = model_class(), Data(Series(VALUES))
    if current_group() is None:
        outputs = trainer.predict(model, datamodule=data)
    else:
        outputs = prediction.predict(trainer, model, data)
    assert not [callback for callback in trainer.callbacks if isinstance(callback, prediction._RandomWatch)]
    return [output.tolist() for output in outputs], n_seen(model), torch.rand(2).tolist(), np.random.rand()


@pytest.mark.parametrize(("model_class", "n_batches"), [(Model, 3), (DrawingModel, 3 + 6)])
def test_lightning_gives_the_outputs_and_the_random_state_of_one_process(tmp_path, model_class, n_batches):
    outputs, _, *drawn = predict_by_lightning(model_class)
    for result in run_in_processes(2, predict_by_lightning, tmp_path, model_class):
        assert result == (outputs, n_batches, *drawn)
