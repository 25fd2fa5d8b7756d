import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from several_ranks import run_in_threads
from torch.utils.data import DataLoader, DistributedSampler

from patches.runtime import validation
from patches.runtime.ranks import RankGroup

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("validating.py")


def upstream(function):
    function.__module__ = "neuralforecast.common._base_model"
    return function


class DDPStrategy:
    pass


class Upstream:
    @upstream
    def validation_step(self, batch, batch_idx):
        pass


class Inherited(Upstream):
    def forward(self, x):
        return x


class Overridden(Upstream):
    def on_validation_epoch_end(self):
        pass


class Logging(Upstream):
    def forward(self, x):
        self.log("own", x)


def datamodule_on(rank, world_size, n_series=23, drop_last=False, model=None, **trainer):
    options = {
        "strategy": DDPStrategy(),
        "limit_val_batches": 1.0,
        "overfit_batches": 0.0,
        "callbacks": [pl.callbacks.EarlyStopping("x")],
    }
    trainer = SimpleNamespace(
        world_size=world_size,
        global_rank=rank,
        lightning_module=Upstream() if model is None else model,
        **{**options, **trainer},
    )
    return SimpleNamespace(dataset=list(range(n_series)), drop_last=drop_last, trainer=trainer)


@pytest.fixture
def several_ranks(monkeypatch):
    """A process group as `sample_batches` needs it, in which no rank waits for others."""

    def group_of(trainer):
        return RankGroup(trainer.global_rank, 1, torch.distributed.HashStore())

    monkeypatch.setattr(validation, "group_of_trainer", group_of)


def batches_of(datamodule, batch_size):
    sampler = validation.sample_batches(datamodule, batch_size)
    loader = DataLoader(datamodule.dataset, batch_size=batch_size, sampler=sampler, drop_last=datamodule.drop_last)
    batches = [batch.tolist() for batch in loader]
    assert len(batches) == len(loader)
    return sampler, batches


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n_ranks", [2, 3, 5])
@pytest.mark.parametrize(("n_series", "batch_size"), [(23, 2), (23, 4), (24, 4), (20, 4), (5, 1)])
def test_ranks_share_the_batches_of_one_process(several_ranks, n_series, batch_size, n_ranks, drop_last):
    loader = DataLoader(list(range(n_series)), batch_size=batch_size, drop_last=drop_last)
    expected = [batch.tolist() for batch in loader]
    found = {}
    for rank in range(n_ranks):
        sampler, batches = batches_of(datamodule_on(rank, n_ranks, n_series, drop_last), batch_size)
        assert sampler.numbers == list(range(rank, len(expected), n_ranks))
        found.update(zip(sampler.numbers, batches))
    assert [found[number] for number in sorted(found)] == expected


@pytest.mark.parametrize(
    "datamodule",
    [
        datamodule_on(1, 2, n_series=4),
        datamodule_on(1, 2, limit_val_batches=3),
        datamodule_on(1, 2, limit_val_batches=1),
        datamodule_on(1, 2, limit_val_batches=0.5),
        datamodule_on(1, 2, overfit_batches=1),
        datamodule_on(1, 2, callbacks=[type("Own", (pl.Callback,), {"on_validation_batch_end": print})()]),
    ],
    ids=["few", "limited", "one", "part", "overfit", "followed"],
)
def test_every_rank_computes_all_batches(several_ranks, datamodule):
    sampler, batches = batches_of(datamodule, 4)
    assert [index for batch in batches for index in batch] == datamodule.dataset
    assert sampler.numbers == list(range(len(batches)))
    assert not sampler.is_shared


def test_fewer_batches_than_ranks_are_computed_by_every_rank(several_ranks):
    sampler, batches = batches_of(datamodule_on(2, 3, n_series=8), 4)
    assert (len(batches), sampler.is_shared) == (2, False)
    assert validation.sample_batches(datamodule_on(2, 3, n_series=2, drop_last=True), 4).numbers == []


@pytest.mark.parametrize("model", [Overridden(), Logging()])
def test_a_model_with_its_own_hooks_validates_all_series(several_ranks, model):
    sampler, batches = batches_of(datamodule_on(1, 2, model=model), 4)
    assert type(sampler) is DistributedSampler
    assert [index for batch in batches for index in batch] == list(range(23))


def test_a_step_set_on_the_instance_counts_as_its_own(several_ranks):
    model = Upstream()
    model.validation_step = lambda batch, batch_idx: None
    assert type(validation.sample_batches(datamodule_on(1, 2, model=model), 4)) is DistributedSampler


def test_a_model_that_overrides_another_method_shares(several_ranks):
    assert validation.sample_batches(datamodule_on(1, 2, model=Inherited()), 4).is_shared


def test_a_rank_of_spark_validates_its_own_series(several_ranks):
    datamodule = datamodule_on(1, 2)
    datamodule.files_ds = object()
    assert type(validation.sample_batches(datamodule, 4)) is DistributedSampler


def test_a_rank_with_a_part_of_the_model_computes_every_step(several_ranks):
    datamodule = datamodule_on(1, 2, strategy=type("FSDPStrategy", (), {})())
    assert type(validation.sample_batches(datamodule, 4)) is DistributedSampler


def test_without_a_process_group_nothing_is_shared():
    assert type(validation.sample_batches(datamodule_on(1, 2), 4)) is DistributedSampler


@pytest.mark.parametrize("datamodule", [datamodule_on(0, 1), SimpleNamespace(trainer=None)])
def test_one_process_keeps_its_sampler(datamodule):
    assert validation.sample_batches(datamodule, 4) is None


def test_a_saved_sampler_is_one_of_torch(several_ranks):
    sampler = validation.sample_batches(datamodule_on(1, 2), 4)
    saved = pickle.dumps(sampler)
    assert validation.__name__.encode() not in saved
    assert b"SharedBatches" not in saved
    for again in (pickle.loads(saved), copy.deepcopy(sampler)):
        assert type(again) is DistributedSampler
        assert list(again) == list(range(23))


class Model:
    """A model after Lightning's hook at the start of a batch."""

    device = torch.device("cpu")

    def __init__(self, sampler, world_size=2):
        loop = SimpleNamespace(dataloaders=[SimpleNamespace(sampler=sampler)])
        self.trainer = SimpleNamespace(world_size=world_size, datamodule=None, _evaluation_loop=loop)
        self.validation_step_outputs = []
        self.logged = []

    def log(self, name, value, *args, **options):
        self.logged.append((name, value, args, options))

    def all_gather(self, value):
        return torch.stack([value, value])

    def validation_step(self, batch, batch_idx):
        self.log("valid_loss", torch.tensor(2.0), prog_bar=True, sync_dist=True)
        self.log("sized", 3.0, batch_size=torch.tensor(5), on_epoch=True)
        self.log("by step", 4.0, on_step=True)
        self.log("positional", 4.0, True)
        self.log("metric", object())
        self.validation_step_outputs.append(torch.tensor(1.0, requires_grad=True))
        return self.validation_step_outputs[-1]


def test_logged_values_of_a_step_are_recorded_for_later(several_ranks):
    model = Model(validation.sample_batches(datamodule_on(1, 2), 4))
    batch = torch.zeros(3)
    validation.record_validation_step(model, batch, 0, 0)
    model.validation_step(batch, 0)
    assert {"validation_step", "log"}.isdisjoint(vars(model))
    (result,) = model.trainer._evaluation_loop.dataloaders[0].sampler.results.values()
    assert [name for name, *_ in model.logged] == ["by step", "positional", "metric"]
    assert result.logged == [
        ("valid_loss", torch.tensor(2.0), {"prog_bar": True, "sync_dist": False, "batch_size": 3}),
        ("sized", 3.0, {"batch_size": torch.tensor(5), "on_epoch": True, "sync_dist": False}),
    ]
    assert [output.requires_grad for output in result.outputs] == [False]


def test_a_step_that_was_not_called_is_replaced(several_ranks):
    model = Model(validation.sample_batches(datamodule_on(1, 2), 4))
    for step in range(2):
        validation.record_validation_step(model, torch.zeros(3), step, 0)
    model.validation_step(torch.zeros(3), 1)
    assert list(model.trainer._evaluation_loop.dataloaders[0].sampler.results) == [3]
    assert "validation_step" not in vars(model)


def test_after_an_error_a_rank_computes_no_further_batch(several_ranks):
    sampler = validation.sample_batches(datamodule_on(0, 2), 4)
    model = Model(sampler)
    for step, n_computed in enumerate([1, 2, 2]):
        validation.record_validation_step(model, torch.zeros(3), step)
        model.validation_step(torch.zeros(3), step)
        assert len(model.validation_step_outputs) == n_computed
        if step == 1:
            sampler.results[2].error = ValueError()


def attend(meetings, n_meetings=1):
    for _ in range(n_meetings):
        meetings.meet()
    return "met"


def test_synchronization_leaves_only_its_last_keys(several_ranks):
    stores = []

    def run(group):
        stores.append(group.store)
        return attend(validation.Meetings(group), n_meetings=5)

    assert run_in_threads(3, run) == ["met"] * 3
    assert stores[0].num_keys() <= 2


@pytest.mark.parametrize("n_held", [0, 2])
def test_an_error_of_another_rank_is_raised_at_the_next_synchronization(n_held):
    error = KeyError("no column")

    def run(group):
        meetings = validation.Meetings(group)
        attend(meetings, n_held)
        if group.rank == 1:
            meetings.on_exception(None, None, error)
            return "failed"
        return attend(meetings, 3)

    results = run_in_threads(3, run)
    assert results[1] == "failed"
    for raised in (results[0], results[2]):
        assert isinstance(raised, KeyError)
        assert raised.args == error.args


def test_without_the_store_a_rank_raises_its_own_error():
    group = SimpleNamespace(publish=lambda key, value: 1 / 0)
    validation.Meetings(group).on_exception(None, None, ValueError())


def test_the_callback_is_saved_as_a_callback_of_lightning():
    saved = pickle.dumps([validation.Meetings(None)])
    assert validation.__name__.encode() not in saved
    assert type(pickle.loads(saved)[0]) is pl.Callback


def test_ranks_synchronize_after_the_users_callbacks(several_ranks):
    own = type("Own", (pl.Callback,), {})()
    stopping = pl.callbacks.EarlyStopping("x")
    datamodule = datamodule_on(0, 2, callbacks=[own, stopping])
    meetings = [validation.sample_batches(datamodule, 4).meetings for _ in range(2)]
    assert meetings[0] is meetings[1]
    assert datamodule.trainer.callbacks == [own, meetings[0], stopping]
    datamodule = datamodule_on(0, 2, callbacks=[own])
    meetings = validation.sample_batches(datamodule, 4).meetings
    assert datamodule.trainer.callbacks == [own, meetings]


@pytest.mark.parametrize("sampler", [DistributedSampler(range(4), 2, 1), None])
def test_a_users_sampler_is_unchanged(sampler):
    model = Model(sampler)
    model.trainer.strategy = SimpleNamespace(reduce=lambda tensor: tensor / 2)
    validation.record_validation_step(model, torch.zeros(3), 0)
    assert "validation_step" not in vars(model)
    assert validation.gather_outputs(model) is model.validation_step_outputs
    assert validation.gather_outputs(model, ["passed"]) == ["passed"]
    assert validation.is_loss_reduced(model)
    assert validation.mean_over_ranks(model, torch.tensor(3.0)) == 1.5
    assert validation.gather_totals(model, torch.tensor(3.0)).tolist() == [3.0, 3.0]


def test_in_one_process_the_strategy_reduces_as_before():
    model = Model(None, world_size=1)
    model.trainer.strategy = SimpleNamespace(reduce=lambda tensor: tensor)
    validation.record_validation_step(model, torch.zeros(3), 0)
    assert "validation_step" not in vars(model)
    assert validation.is_loss_reduced(model)
    assert validation.mean_over_ranks(model, torch.tensor(3.0)) == 3.0


def test_on_spark_the_ranks_losses_are_reduced():
    model = Model(DistributedSampler(range(4), 1, 0))
    model.trainer.datamodule = SimpleNamespace(files_ds=object())
    assert validation.is_loss_reduced(model)


def test_if_all_ranks_have_all_series_the_loss_of_rank_0_is_used():
    model = Model(DistributedSampler(range(4), 1, 0))
    model.trainer.strategy = SimpleNamespace(broadcast=lambda tensor: tensor + 1)
    assert not validation.is_loss_reduced(model)
    assert validation.mean_over_ranks(model, torch.tensor(3.0)) == 4.0
    assert validation.gather_totals(model, torch.tensor(3.0)) == 4.0


def test_results_are_merged_in_the_order_of_one_process():
    first, second, third = (validation.BatchResult([torch.tensor(float(number))]) for number in range(3))
    failed = validation.BatchResult(error=ValueError())
    assert validation._in_order([{0: first, 2: third}, {1: second}], 3) == [(0, first), (1, second), (2, third)]
    assert validation._in_order([{0: first, 2: third}, {1: second}], 2) == [(0, first), (1, second)]
    assert validation._in_order([{0: first, 1: second}, {0: third, 1: failed}], 2) == [(0, first), (1, failed)]


def test_a_draw_from_any_generator_is_seen():
    device = torch.device("cpu")
    before = validation._generator_states(device)
    assert validation._are_equal(before, validation._generator_states(device))
    for draw in (validation.random.random, validation.np.random.rand, lambda: torch.rand(())):
        draw()
        assert not validation._are_equal(before, validation._generator_states(device))
        validation._set_generators(before, device)
        assert validation._are_equal(before, validation._generator_states(device))


def test_a_validation_loss_with_layers_is_a_frozen_copy():
    valid_loss = torch.nn.Linear(2, 2)
    frozen = validation.freeze_layers(valid_loss, torch.nn.Linear(2, 2))
    assert frozen is not valid_loss
    assert torch.equal(frozen.weight, valid_loss.weight)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in valid_loss.parameters())


def test_other_validation_losses_are_unchanged():
    loss = torch.nn.Linear(2, 2)
    assert validation.freeze_layers(loss, loss) is loss
    assert loss.weight.requires_grad
    for valid_loss in (torch.nn.ReLU(), torch.nn.Linear(2, 2).requires_grad_(False), len):
        assert validation.freeze_layers(valid_loss, loss) is valid_loss


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """The results of `validating.py`, by number of ranks."""
    found = {}
    for n_ranks in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"ranks-{n_ranks}")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [*command, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr
        found[n_ranks] = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(n_ranks)]
    return found


@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize(
    ("name", "n_computed"),
    [
        # two of the batches in the sanity check, and two validations
        ("uneven", {2: [14, 14], 3: [10, 10, 10]}),
        ("dropped", {2: [10, 8], 3: [8, 6, 6]}),
        ("few", {2: [3] * 2, 3: [3] * 3}),
        ("limited", {2: [12] * 2, 3: [12] * 3}),
        ("followed", {2: [26] * 2, 3: [26] * 3}),
        ("own step", {2: [26] * 2, 3: [26] * 3}),
        ("validate", {2: [6] * 2, 3: [4] * 3}),
        # each rank finds in the first two batches that they draw random numbers, and then computes all
        ("draws", {2: [28] * 2, 3: [28] * 3}),
        ("fails", None),
        ("fails in check", None),
        ("fails and draws", None),
    ],
)
def test_ranks_have_the_validation_of_one_process(validated, n_ranks, name, n_computed):
    (one,) = validated[1]
    ranks = validated[n_ranks]
    assert [rank[name]["same"] for rank in ranks] == [one[name]["same"]] * n_ranks
    assert one[name]["same"]["kept"] == []
    if n_computed is None:
        assert one[name]["same"]["error"]
    else:
        assert [len(rank[name]["computed"]) for rank in ranks] == n_computed[n_ranks]
        assert one[name]["same"]["error"] is None


@pytest.mark.parametrize("n_ranks", [2, 3])
@pytest.mark.parametrize(
    "name",
    [
        "fails on rank 1",
        "fails on rank 1 of few",
        "first batch lost on rank 1",
        "last batch lost on rank 1",
        "start fails on rank 1",
        "batch fails on rank 1",
        "step fails on rank 1",
        "end fails on rank 1",
    ],
)
def test_an_error_on_one_rank_is_raised_on_all(validated, n_ranks, name):
    errors = {rank[name]["same"]["error"] for rank in validated[n_ranks]}
    assert len(errors) == 1
    assert errors != {None}
