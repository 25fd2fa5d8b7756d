from __future__ import annotations

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, ModelSummary, RichModelSummary, TQDMProgressBar

from patches.runtime import compat


class Model(pl.LightningModule):
    pass


def test_a_model_is_attached_to_a_trainer_or_to_none() -> None:
    model = Model()
    assert compat.attached_trainer(model) is None
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model.trainer = trainer
    assert compat.attached_trainer(model) is trainer
    model.__dict__.pop("_trainer", None)  # as neuralforecast does after a training
    model.__dict__.pop("trainer", None)
    assert compat.attached_trainer(model) is None


def test_the_trainer_of_a_lightning_that_keeps_it_under_its_own_name() -> None:
    trainer = object()
    assert compat.attached_trainer(SimpleNamespace(trainer=trainer)) is trainer


def test_the_callbacks_that_a_trainer_adds_are_known() -> None:
    added = compat.default_callback_classes()
    assert all(issubclass(each, added) for each in (TQDMProgressBar, ModelCheckpoint, ModelSummary, RichModelSummary))
    assert not issubclass(pl.callbacks.EarlyStopping, added)


def test_the_progress_bars_of_lightning_1_have_another_base(monkeypatch: pytest.MonkeyPatch) -> None:
    base = type("ProgressBarBase", (), {})
    monkeypatch.setattr(pl.callbacks, "ProgressBarBase", base, raising=False)
    assert compat.default_callback_classes()[0] is base


@pytest.mark.parametrize(
    ("model", "datamodule", "is_reduced"),
    [
        (SimpleNamespace(val_monitor="train_loss"), SimpleNamespace(), True),
        (SimpleNamespace(val_monitor="ptl/val_loss"), SimpleNamespace(), False),
        (SimpleNamespace(), SimpleNamespace(), False),
        (SimpleNamespace(val_monitor="train_loss"), SimpleNamespace(files_ds=None), False),
    ],
    ids=["monitored", "not monitored", "before 3.1.6", "on Spark"],
)
def test_the_training_loss_is_reduced_where_it_is_monitored(
    model: SimpleNamespace, datamodule: SimpleNamespace, is_reduced: bool
) -> None:
    model.trainer = SimpleNamespace(datamodule=datamodule)
    assert compat.is_train_loss_reduced(model) is is_reduced


class OldTrainer:
    """The relevant arguments of Lightning 1.6's `Trainer`."""

    def __init__(self, num_nodes=1, num_processes=None, devices=None, gpus=None, strategy=None):
        pass


def test_attribute_names_and_defaults_of_lightning_1(monkeypatch):
    monkeypatch.setattr(compat.pl, "Trainer", OldTrainer)
    assert compat.former_device_arguments() == ("num_processes", "gpus")
    assert compat.default_strategy() is None


def test_attribute_names_and_defaults_of_the_installed_lightning():
    is_old = int(pl.__version__.split(".")[0]) < 2
    assert compat.former_device_arguments() == (("num_processes", "gpus") if is_old else ())
    assert compat.default_strategy() == (None if is_old else "auto")


def test_only_what_forks_the_processes_of_a_trainer_is_a_forking_launcher() -> None:
    trainers = {
        strategy: pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
        for strategy in ("ddp_notebook", "ddp_fork", "ddp_spawn", "ddp")
    }
    forking = {name: compat.forking_launcher(trainer) for name, trainer in trainers.items()}
    assert [name for name, launcher in forking.items() if launcher is not None] == ["ddp_notebook", "ddp_fork"]
    assert forking["ddp_fork"] is trainers["ddp_fork"].strategy.launcher


def test_the_loader_of_a_training_is_that_of_either_lightning() -> None:
    loader = SimpleNamespace(sampler=None)
    combined = SimpleNamespace(loaders=loader, sampler=None)
    assert compat.train_loader(SimpleNamespace(train_dataloader=loader)) is loader
    assert compat.train_loader(SimpleNamespace(train_dataloader=combined)) is loader
    assert compat.train_loader(SimpleNamespace(train_dataloader=[loader, loader])) is None
    assert compat.train_loader(SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("is_tensor", "on_epoch", "is_reduced", "expected"),
    [(True, True, False, 1), (True, True, True, 0), (True, False, False, 0), (False, True, False, 0)],
)
def test_metrics_of_an_epoch_are_computed_if_they_are_not_reduced(is_tensor, on_epoch, is_reduced, expected):
    computed = []
    meta = SimpleNamespace(on_epoch=on_epoch, sync=SimpleNamespace(should=is_reduced))
    metric = SimpleNamespace(is_tensor=is_tensor, meta=meta, compute=lambda: computed.append(1))
    compat.compute_epoch_metrics(SimpleNamespace(_results=SimpleNamespace(result_metrics=[metric])))
    assert len(computed) == expected
