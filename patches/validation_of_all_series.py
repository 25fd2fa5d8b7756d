"""The validation loss is that of a device's own series, and padding counts twice.

Lightning deals the series of the validation loader out to the devices, and pads so that each has equally many: with 3
series on 2 devices one series counts twice. Up to 1.7.0 every device logs the loss of its own share, later the mean of
these means; early stopping, checkpoints and every search choose by it. Many a loss (RMSE, MASE, anything with a mask)
is not a mean of its parts, so no weights (pull requests 935, 1571) put that right: every device validates all series,
as one process does.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"
WINDOWS = "neuralforecast/common/_base_windows.py"
RECURRENT = "neuralforecast/common/_base_recurrent.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"


def all_series(arguments: str) -> Rewrite:
    """The validation loader with a sampler that Lightning does not replace by one that deals the series out."""
    old = f"loader = TimeSeriesLoader(self.dataset, {arguments})"
    new = f"""
        sampler = torch.utils.data.DistributedSampler(
            # Every device validates all series: Lightning replaces no sampler of this kind
            self.dataset,
            num_replicas=1,
            rank=0,
            shuffle=False,
        )
        loader = TimeSeriesLoader(self.dataset, sampler=sampler, {arguments})
    """
    return Rewrite((Change(where="TimeSeriesDataModule.val_dataloader", old=old, new=new),))


def one_loss(where: str, old: str, new: str) -> Change:
    """The same loss on every device, also where validation draws samples from the forecast distribution."""
    return Change(where=where, old=f"avg_loss = {old}", new=f"avg_loss = {new}")


def of_outputs(name: str, hook: str, outputs: str) -> Rewrite:
    """The mean of a base class up to 1.7.1."""
    mean = f"torch.stack({outputs}).mean()"
    return Rewrite((one_loss(f"{name}.{hook}", mean, f"self.trainer.strategy.reduce({mean})"),))


EPOCH_END = "BaseModel.on_validation_epoch_end"

# The loss may be drawn from samples, and the training loss is that of a device's own windows. On Spark the devices'
# epochs end at different steps, with as many batches as each has series for: none can wait there for the others.
MONITORS = (
    Change(
        where="BaseModel.training_step",
        old="""
            self.log(
                "train_loss",
                train_loss_log,
                batch_size=outsample_y.size(0),
                prog_bar=True,
                on_epoch=True,
            )
        """,
        new="""
            self.log(
                "train_loss",
                train_loss_log,
                batch_size=outsample_y.size(0),
                prog_bar=True,
                on_epoch=True,
                sync_dist=self.val_monitor == "train_loss"
                and not hasattr(self.trainer.datamodule, "files_ds"),
            )
        """,
    ),
    Change(
        where="BaseModel.validation_step",
        old="""
            self.log(
                "valid_loss",
                valid_loss_log.item(),
                batch_size=batch_size,
                prog_bar=True,
                on_epoch=True,
            )
        """,
        new="""
            self.log(
                "valid_loss",
                valid_loss_log.item(),
                batch_size=batch_size,
                prog_bar=True,
                on_epoch=True,
                sync_dist=True,
            )
        """,
    ),
)

# Every device validates all windows of a multivariate model, as one process does
ALL_WINDOWS = Change(
    where="BaseModel.validation_step",
    old="final_condition = self._shard_multivariate_windows(final_condition)",
    new="",
)

FIRST = all_series("batch_size=self.batch_size, num_workers=self.num_workers, shuffle=False, drop_last=self.drop_last")
SECOND = all_series(
    "batch_size=self.valid_batch_size, num_workers=self.num_workers, shuffle=False, drop_last=self.drop_last"
)
THIRD = all_series(
    "batch_size=self.valid_batch_size, shuffle=False, drop_last=self.drop_last, **self.dataloaders_kwargs"
)
OUTPUTS = {
    WINDOWS: of_outputs("BaseWindows", "validation_epoch_end", "outputs"),
    RECURRENT: of_outputs("BaseRecurrent", "validation_epoch_end", "outputs"),
}
LOSSES = one_loss(
    EPOCH_END, "losses.mean().detach().item()", "self.trainer.strategy.reduce(losses.mean().detach()).item()"
)

NHITS = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}
STOPPING = {**NHITS, "early_stop_patience_steps": 2}
BY_TRAIN_LOSS = {**STOPPING, "val_monitor": "train_loss"}

patch = Patch(
    id="validation-of-all-series",
    summary="the validation loss is another on several devices than on one, and on each another",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/validation-of-all-series.md",
    variants={
        ">=1.0.0,<1.4": {DATASET: FIRST, **OUTPUTS},
        "==1.4.0": {DATASET: SECOND, **OUTPUTS},
        ">=1.5,<1.7": {
            DATASET: SECOND,
            WINDOWS: of_outputs("BaseWindows", "on_validation_epoch_end", "self.validation_step_outputs"),
            RECURRENT: of_outputs("BaseRecurrent", "on_validation_epoch_end", "self.validation_step_outputs"),
            MULTIVARIATE: of_outputs("BaseMultivariate", "on_validation_epoch_end", "self.validation_step_outputs"),
        },
        ">=1.7,<1.7.2": {
            DATASET: SECOND,
            MODEL: of_outputs("BaseModel", "on_validation_epoch_end", "self.validation_step_outputs"),
        },
        ">=1.7.2,<1.7.6": {
            DATASET: SECOND,
            MODEL: Rewrite(
                (one_loss(EPOCH_END, "losses.mean().item()", "self.trainer.strategy.reduce(losses.mean()).item()"),)
            ),
        },
        ">=1.7.6,<3.1.6": {DATASET: THIRD, MODEL: Rewrite((LOSSES,))},
        ">=3.1.6,<3.2.1": {DATASET: THIRD, MODEL: Rewrite((LOSSES, *MONITORS))},
        ">=3.2.1": {DATASET: THIRD, MODEL: Rewrite((*MONITORS, ALL_WINDOWS))},
    },
    unaffected={},
    cases=(
        Case("NHITS", "validation", options=NHITS, stage="validate"),
        Case("GRU", "validation", options=GRU, stage="validate", thorough=True, releases=">=1.1"),
        Case("NHITS", "early stopping", options=STOPPING, stage="validate", thorough=True, releases=">=1.4"),
        Case(
            "NHITS",
            "early stopping by train_loss",
            options=BY_TRAIN_LOSS,
            stage="validate",
            releases=">=3.1.6",
            launchers=("torchrun", "script"),  # of the others one process is left, which tells of its own losses
        ),
        Case(
            "NHITS",
            "early stopping by valid_loss",
            options={**STOPPING, "val_monitor": "valid_loss"},
            stage="validate",
            thorough=True,
            releases=">=3.1.6",
        ),
    ),
)
