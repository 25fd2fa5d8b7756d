"""Validations of a small model by Lightning: `python validating.py OUT`; each rank writes OUT/rank-N.json.

The results do not depend on the number of ranks, except for the batches that each rank has computed.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from patches.runtime import validation

__name__ = "neuralforecast.validating"  # so that the hooks below do not count as a user's

N_RANKS = int(os.environ.get("WORLD_SIZE", "1"))
IS_LIGHTNING_1 = pl.__version__.startswith("1.")


class Data(pl.LightningDataModule):
    def __init__(self, n_series: int, batch_size: int, drop_last: bool = False, lost: int = -1):
        super().__init__()
        self.dataset: Any = Lossy(torch.sin(torch.arange(float(n_series))) * 1000, lost)
        self.batch_size = batch_size
        self.drop_last = drop_last

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(8))

    def val_dataloader(self) -> Any:
        sampler = validation.sample_batches(self, self.batch_size)
        return DataLoader(self.dataset, batch_size=self.batch_size, sampler=sampler, drop_last=self.drop_last)


class Model(pl.LightningModule):
    """A model whose loss is not a mean of its parts, with a buffer that DDP broadcasts in each step."""

    def __init__(self, draws: bool = False, fails_at: float = float("nan"), fails_on: int = -1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("scale", torch.ones(1))
        self.draws, self.fails_at, self.fails_on = draws, fails_at, fails_on
        self.computed: list[float] = []
        self.losses: list[str] = []
        if not IS_LIGHTNING_1:
            self.validation_step_outputs: list[torch.Tensor] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        return (self.weight * batch).sum()

    def on_validation_batch_start(self, *args: Any) -> None:
        validation.record_validation_step(self, *args)
        super().on_validation_batch_start(*args)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.computed.append(batch[0].item())
        if self.fails_at in batch or self.fails_on == self.global_rank:
            raise ValueError(f"no loss of {batch[0]:.1f}")
        loss = (batch**2).mean().sqrt() * self.scale
        if self.draws:
            loss = loss + torch.rand(()) + random.random() + np.random.rand()
        self.log("valid_loss", loss.squeeze(), on_epoch=True, prog_bar=True)
        if not IS_LIGHTNING_1:
            self.validation_step_outputs.append(loss)
        return loss

    def finish(self, outputs: list[torch.Tensor]) -> None:
        loss = validation.mean_over_ranks(self, torch.stack(outputs).mean())
        total = validation.gather_totals(self, torch.stack(outputs).sum(dim=0))
        self.log("val_loss", loss, sync_dist=validation.is_loss_reduced(self))
        self.losses += [loss.item().hex(), total.sum().item().hex()]

    if IS_LIGHTNING_1:

        def validation_epoch_end(self, outputs: Any) -> None:
            self.finish(validation.gather_outputs(self, outputs))
    else:

        def on_validation_epoch_end(self) -> None:
            self.finish(validation.gather_outputs(self))
            self.validation_step_outputs.clear()


class Metrics(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append({name: float(value).hex() for name, value in trainer.callback_metrics.items()})


Metrics.__module__ = "script"


class Follower(pl.Callback):
    def on_validation_batch_end(self, *args: Any) -> None:
        pass


Follower.on_validation_batch_end.__module__ = "script"


class Failing(pl.Callback):
    """Raises in one of its hooks, on rank 1. The hook is set on the instance, so that batches are shared."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, trainer: Any, *_: Any) -> None:
        if trainer.global_rank == 1:
            raise ValueError("callback of rank 1")


Failing.__module__ = "script"


class Lossy:
    """A dataset that loses one of its items on rank 1."""

    def __init__(self, dataset: torch.Tensor, lost: int) -> None:
        self.dataset = dataset
        self.lost = lost

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.lost and os.environ.get("RANK") == "1":
            raise ValueError("lost on rank 1")
        return self.dataset[index]


class OfUser(Model):
    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return super().validation_step(batch, batch_idx)


OfUser.validation_step.__module__ = "script"


def validate(
    model: Model, data: Data, callbacks: tuple[pl.Callback, ...] = (), validates_only: bool = False, **options: Any
) -> dict[str, Any]:
    """The results of validations before and in a training, or of `trainer.validate`."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    metrics = Metrics()
    options = {"num_sanity_val_steps": 2, "max_steps": 2, **options}
    strategy = {"strategy": "ddp"} if N_RANKS > 1 else {}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=N_RANKS,
        callbacks=[metrics, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=1,
        check_val_every_n_epoch=1 if IS_LIGHTNING_1 else None,
        **strategy,
        **options,
    )
    error = None
    try:
        if validates_only:
            trainer.validate(model, datamodule=data, verbose=False)
        else:
            trainer.fit(model, datamodule=data)
    except ValueError as raised:
        error = str(raised)
    generators = [torch.rand(()).item(), random.random(), float(np.random.rand())]
    kept = [name for name in ("validation_step", "log") if name in vars(model)]
    found = {"losses": model.losses, "metrics": metrics.seen, "error": error, "generators": generators, "kept": kept}
    return {"same": found, "computed": model.computed}


VALIDATIONS = {
    "uneven": lambda: validate(Model(), Data(23, 2)),
    "dropped": lambda: validate(Model(), Data(23, 3, drop_last=True)),
    "few": lambda: validate(Model(), Data(5, 5)),
    "limited": lambda: validate(Model(), Data(23, 2), limit_val_batches=5),
    "followed": lambda: validate(Model(), Data(23, 2), callbacks=(Follower(),)),
    "own step": lambda: validate(OfUser(), Data(23, 2)),
    "draws": lambda: validate(Model(draws=True), Data(23, 2)),
    "validate": lambda: validate(Model(), Data(23, 2), validates_only=True),
    "fails": lambda: validate(Model(fails_at=float(torch.sin(torch.tensor(13.0)) * 1000)), Data(23, 2)),
    "fails in check": lambda: validate(Model(fails_at=float(torch.sin(torch.tensor(3.0)) * 1000)), Data(23, 2)),
    "fails and draws": lambda: validate(Model(True, float(torch.sin(torch.tensor(13.0)) * 1000)), Data(23, 2)),
    "fails on rank 1": lambda: validate(Model(fails_on=1), Data(23, 2)),
    "fails on rank 1 of few": lambda: validate(Model(fails_on=1), Data(5, 5)),
    "first batch lost on rank 1": lambda: validate(Model(), Data(23, 2, lost=2)),
    # the last of rank 1 of 2 and of 3, not in the sanity check
    "last batch lost on rank 1": lambda: validate(Model(), Data(21, 2, lost=18 if N_RANKS == 2 else 20)),
    "start fails on rank 1": lambda: validate(Model(), Data(23, 2), (Failing("on_validation_start"),)),
    "batch fails on rank 1": lambda: validate(Model(), Data(23, 2), (Failing("on_validation_batch_end"),)),
    "step fails on rank 1": lambda: validate(Model(), Data(23, 2), (Failing("on_train_batch_end"),)),
    "end fails on rank 1": lambda: validate(
        Model(), Data(23, 2), (Failing("on_validation_end"), pl.callbacks.EarlyStopping("val_loss"))
    ),
}

found = {name: run() for name, run in VALIDATIONS.items()}
rank = os.environ.get("RANK", "0")
(Path(sys.argv[1]) / f"rank-{rank}.json").write_text(json.dumps(found))
