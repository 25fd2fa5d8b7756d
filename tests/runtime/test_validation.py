import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from patches.runtime import validation

ROOT = Path(__file__).resolve().parents[2]


def datamodule_on(world_size):
    return SimpleNamespace(dataset=list(range(5)), trainer=SimpleNamespace(world_size=world_size))


def test_every_rank_validates_all_series_in_their_order():
    sampler = validation.whole_dataset_sampler(datamodule_on(2))
    assert isinstance(sampler, torch.utils.data.DistributedSampler), "Lightning replaces any other sampler"
    assert list(sampler) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("datamodule", [datamodule_on(1), SimpleNamespace(trainer=None)])
def test_one_process_keeps_its_sampler(datamodule):
    assert validation.whole_dataset_sampler(datamodule) is None


def test_the_loss_is_reduced_by_the_strategy():
    strategy = SimpleNamespace(reduce=lambda tensor: tensor / 2)
    model = SimpleNamespace(trainer=SimpleNamespace(strategy=strategy))
    assert validation.mean_over_ranks(model, torch.tensor(3.0)) == 1.5


def test_a_validation_loss_with_layers_is_a_frozen_copy():
    valid_loss = torch.nn.Linear(2, 2)
    frozen = validation.freeze_layers(valid_loss, torch.nn.Linear(2, 2))
    assert frozen is not valid_loss
    assert torch.equal(frozen.weight, valid_loss.weight)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in valid_loss.parameters())


def test_other_validation_losses_stay_what_they_are():
    loss = torch.nn.Linear(2, 2)
    assert validation.freeze_layers(loss, loss) is loss
    assert loss.weight.requires_grad
    for valid_loss in (torch.nn.ReLU(), torch.nn.Linear(2, 2).requires_grad_(False), len):
        assert validation.freeze_layers(valid_loss, loss) is valid_loss


SCRIPT = """
import pytorch_lightning as pl, torch
from torch.utils.data import DataLoader
from patches.runtime import validation

class Data(pl.LightningDataModule):
    dataset = torch.arange(5.0)
    def train_dataloader(self):
        return DataLoader(self.dataset)
    def val_dataloader(self):
        return DataLoader(self.dataset, sampler=validation.whole_dataset_sampler(self))

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)
    def training_step(self, batch, batch_idx):
        return (self.weight * batch).sum()
    def validation_step(self, batch, batch_idx):
        seen.append(batch.item())
    def on_validation_epoch_end(self):
        losses.append(validation.mean_over_ranks(self, torch.tensor(float(self.global_rank))).item())

seen, losses = [], []
model = Model()
pl.Trainer(
    max_steps=1, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=1,
    check_val_every_n_epoch=None,
).fit(model, datamodule=Data())
assert seen == [0.0, 1.0, 2.0, 3.0, 4.0], seen
assert losses == [0.5], losses
"""


def test_two_processes_validate_all_series_and_have_one_loss(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
