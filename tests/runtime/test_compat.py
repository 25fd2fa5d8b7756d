from types import SimpleNamespace

import pytest
import pytorch_lightning as pl

from patches.runtime import compat


class OldTrainer:
    """The arguments of `Trainer` in Lightning 1.6 that matter here."""

    def __init__(self, num_nodes=1, num_processes=None, devices=None, gpus=None, strategy=None):
        pass


def test_names_and_defaults_of_lightning_1(monkeypatch):
    monkeypatch.setattr(compat.pl, "Trainer", OldTrainer)
    assert compat.former_device_arguments() == ("num_processes", "gpus")
    assert compat.default_strategy() is None


def test_names_and_defaults_of_the_installed_lightning():
    is_old = int(pl.__version__.split(".")[0]) < 2
    assert compat.former_device_arguments() == (("num_processes", "gpus") if is_old else ())
    assert compat.default_strategy() == (None if is_old else "auto")


@pytest.mark.parametrize("name", ["_trainer", "trainer"])
def test_the_trainer_of_a_model(name):
    trainer = object()
    assert compat.attached_trainer(SimpleNamespace(**{name: trainer})) is trainer


def test_a_model_without_a_trainer():
    assert compat.attached_trainer(pl.LightningModule()) is None
