"""Validation losses differ from one process, and from rank to rank.

Lightning shards the series of the validation loader, and pads so that each device has equally many: with 3 series on 2
devices one series counts twice. Up to 1.7.0 every device logs the loss of its own series, later the mean of these
means; early stopping, checkpoints and every search choose by it. Many losses (RMSE, MASE, any with a mask) are no mean
of their parts, so no weights (pull requests 935, 1571) make that right. With the patch every device validates all
series, as one process does.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"
WINDOWS = "neuralforecast/common/_base_windows.py"
RECURRENT = "neuralforecast/common/_base_recurrent.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"


def load(sizes: str, last: str = "") -> Rewrite:
    """The validation loader with a sampler of all series, which Lightning leaves in place."""
    old, new = (
        f"""
loader = TimeSeriesLoader(
    self.dataset,
    {sizes},
    shuffle=False,{sampler}
    drop_last=self.drop_last,{last}
)
"""
        for sampler in ("", "\n    sampler=validation.whole_dataset_sampler(self),")
    )
    return Rewrite((Change("TimeSeriesDataModule.val_dataloader", old, new),), imports=("validation",))


# The mean of all devices is the same on each of them also where validation draws samples from the distribution
def mean_of_outputs(name: str, hook: str, outputs: str) -> Rewrite:
    """The mean of the losses in a base class up to 1.7.1."""
    mean = f"avg_loss = torch.stack({outputs}).mean()"
    change = Change(f"{name}.{hook}", mean, f"{mean}\navg_loss = validation.mean_over_ranks(self, avg_loss)")
    return Rewrite((change,), imports=("validation",))


def mean_of_losses(mean: str) -> Change:
    """The mean of the losses as a number, from 1.7.2 to 3.2.0."""
    where = "BaseModel.on_validation_epoch_end"
    return Change(where, f"avg_loss = {mean}.item()", f"avg_loss = validation.mean_over_ranks(self, {mean}).item()")


def log(name: str, value: str, batch_size: str, sync_dist: str = "") -> str:
    """The statement that logs a loss, from 3.1.6 on."""
    return f"""
self.log(
    "{name}",
    {value},
    batch_size={batch_size},
    prog_bar=True,
    on_epoch=True,{sync_dist}
)
"""


# The loss may be drawn from samples, and the training loss is that of a device's own windows
TRAIN_LOG = ("train_loss", "train_loss_log", "outsample_y.size(0)")
VALID_LOG = ("valid_loss", "valid_loss_log.item()", "batch_size")
LOGS = (
    Change(
        "BaseModel.training_step",
        old=log(*TRAIN_LOG),
        new=log(*TRAIN_LOG, sync_dist="\n    sync_dist=compat.is_train_loss_reduced(self),"),
    ),
    Change("BaseModel.validation_step", old=log(*VALID_LOG), new=log(*VALID_LOG, sync_dist="\n    sync_dist=True,")),
)

# Every device validates all windows of a multivariate model, as one process does
ALL_WINDOWS = Change(
    where="BaseModel.validation_step",
    old="final_condition = self._shard_multivariate_windows(final_condition)",
    new="",
)

FIRST = load("batch_size=self.batch_size,\n    num_workers=self.num_workers")
SECOND = load("batch_size=self.valid_batch_size,\n    num_workers=self.num_workers")
THIRD = load("batch_size=self.valid_batch_size", last="\n    **self.dataloaders_kwargs")
OUTPUTS = {
    WINDOWS: mean_of_outputs("BaseWindows", "validation_epoch_end", "outputs"),
    RECURRENT: mean_of_outputs("BaseRecurrent", "validation_epoch_end", "outputs"),
}
STEP_OUTPUTS = ("on_validation_epoch_end", "self.validation_step_outputs")
LOSSES = mean_of_losses("losses.mean().detach()")


NHITS = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}
STOPPING = {**NHITS, "early_stop_patience_steps": 2}
BY_TRAIN_LOSS = {**STOPPING, "val_monitor": "train_loss"}

patch = Patch(
    id="validation-of-all-series",
    summary="validation losses on several devices differ from one device, and from each other",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/validation-of-all-series.md",
    variants={
        ">=1.0.0,<1.4": {DATASET: FIRST, **OUTPUTS},
        "==1.4.0": {DATASET: SECOND, **OUTPUTS},
        ">=1.5,<1.7": {
            DATASET: SECOND,
            WINDOWS: mean_of_outputs("BaseWindows", *STEP_OUTPUTS),
            RECURRENT: mean_of_outputs("BaseRecurrent", *STEP_OUTPUTS),
            MULTIVARIATE: mean_of_outputs("BaseMultivariate", *STEP_OUTPUTS),
        },
        ">=1.7,<1.7.2": {DATASET: SECOND, MODEL: mean_of_outputs("BaseModel", *STEP_OUTPUTS)},
        ">=1.7.2,<1.7.6": {
            DATASET: SECOND,
            MODEL: Rewrite((mean_of_losses("losses.mean()"),), imports=("validation",)),
        },
        ">=1.7.6,<3.1.6": {DATASET: THIRD, MODEL: Rewrite((LOSSES,), imports=("validation",))},
        ">=3.1.6,<3.2.1": {DATASET: THIRD, MODEL: Rewrite((LOSSES, *LOGS), imports=("compat", "validation"))},
        ">=3.2.1": {DATASET: THIRD, MODEL: Rewrite((*LOGS, ALL_WINDOWS), imports=("compat",))},
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
            launchers=("torchrun", "script"),  # the others leave the losses of one process
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
