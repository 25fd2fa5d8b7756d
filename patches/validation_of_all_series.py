"""Validation losses differ from those of one process, and between ranks.

Lightning shards the series of the validation loader, and pads so that each device has equally many: with 3 series on 2
devices one series counts twice. Up to 1.7.0 every device logs the loss of its own series, later the mean of these
means, which early stopping, checkpoints and searches use. Many losses (RMSE, MASE, any with a mask) are not means of
their parts, so weights (pull requests 935, 1571) cannot correct that. With the patch the devices share the batches of
one process: each computes some of them as one process does, and all combine the losses in the order of one process. If
a batch draws random numbers, or there are fewer batches than devices (a multivariate model has one), every device
computes all batches.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"
WINDOWS = "neuralforecast/common/_base_windows.py"
RECURRENT = "neuralforecast/common/_base_recurrent.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"
TFT = "neuralforecast/models/tft.py"


def load(sizes: str, batch_size: str = "self.valid_batch_size", last: str = "") -> Rewrite:
    """The validation loader with a sampler of the rank's batches, which Lightning does not replace."""
    old, new = (
        f"""
loader = TimeSeriesLoader(
    self.dataset,
    {sizes},
    shuffle=False,{sampler}
    drop_last=self.drop_last,{last}
)
"""
        for sampler in ("", f"\n    sampler=validation.sample_batches(self, {batch_size}),")
    )
    return Rewrite((Change("TimeSeriesDataModule.val_dataloader", old, new),), imports=("validation",))


# Lightning calls it before each batch
RECORD = """
def on_validation_batch_start(self, *args):
    validation.record_validation_step(self, *args)
    return super().on_validation_batch_start(*args)
"""


def hooked(class_: str, end: str, *changes: Change) -> Rewrite:
    """The changes in a base class, and the hook before each batch; `end` is its method after the last batch."""
    before = Change(class_, old=f"{end}: ...", new=f"{RECORD}\n{end}: ...")
    return Rewrite(
        (before, *changes),
        imports=("validation",),
        absent={class_: ("def on_validation_batch_start(self, batch, batch_idx, dataloader_idx): ...",)},
    )


def mean_of_outputs(where: str, outputs: str, gathered: str) -> Change:
    """The mean of the losses of all ranks, up to 1.7.1."""
    return Change(
        where,
        old=f"avg_loss = torch.stack({outputs}).mean()",
        new=f"""
avg_loss = torch.stack(validation.gather_outputs({gathered})).mean()
avg_loss = validation.mean_over_ranks(self, avg_loss)
""",
    )


def mean_of_passed(class_: str) -> Change:
    """The mean of the losses that Lightning 1 passes, up to 1.4.0."""
    return mean_of_outputs(f"{class_}.validation_epoch_end", "outputs", "self, outputs")


def mean_of_kept(class_: str) -> Change:
    """The mean of the losses that the model keeps, from 1.5.0 to 1.7.1."""
    return mean_of_outputs(f"{class_}.on_validation_epoch_end", "self.validation_step_outputs", "self")


def mean_of_losses(mean: str) -> tuple[Change, ...]:
    """The mean of the losses as a number, from 1.7.2 to 3.2.0."""
    return (
        STACKED,
        Change(EPOCH_END, f"avg_loss = {mean}.item()", f"avg_loss = validation.mean_over_ranks(self, {mean}).item()"),
        Change(EPOCH_END, LOGGED_MEAN.format("True"), LOGGED_MEAN.format("validation.is_loss_reduced(self)")),
    )


EPOCH_END = "BaseModel.on_validation_epoch_end"
STACKED = Change(
    EPOCH_END,
    old="losses = torch.stack(self.validation_step_outputs)",
    new="losses = torch.stack(validation.gather_outputs(self))",
)
LOGGED_MEAN = """
self.log(
    "ptl/val_loss",
    avg_loss,
    batch_size=losses.size(0),
    sync_dist={},
)
"""
LOGGED_OUTPUTS = 'self.log("ptl/val_loss", avg_loss, sync_dist={})'

# Upstream sums the totals of the ranks, each over its own series
TOTALS = Change(
    EPOCH_END,
    old="""
stacked = torch.stack(self.validation_step_outputs)
totals = self.all_gather(stacked.sum(dim=0)).reshape(-1, 2).sum(dim=0)
""",
    new="""
stacked = torch.stack(validation.gather_outputs(self))
totals = validation.gather_totals(self, stacked.sum(dim=0)).reshape(-1, 2).sum(dim=0)
""",
)


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


# The loss may be computed from random samples, and the training loss is that of a device's own windows
TRAIN_LOG = ("train_loss", "train_loss_log", "outsample_y.size(0)")
VALID_LOG = ("valid_loss", "valid_loss_log.item()", "batch_size")
LOGS = (
    Change(
        "BaseModel.training_step",
        old=log(*TRAIN_LOG),
        new=log(*TRAIN_LOG, sync_dist="\n    sync_dist=compat.is_train_loss_reduced(self),"),
    ),
    Change(
        "BaseModel.validation_step",
        old=log(*VALID_LOG),
        new=log(*VALID_LOG, sync_dist="\n    sync_dist=validation.is_loss_reduced(self),"),
    ),
)

# Every device validates all windows of a multivariate model, as one process does: its one batch is not shared
ALL_WINDOWS = Change(
    where="BaseModel.validation_step",
    old="final_condition = self._shard_multivariate_windows(final_condition)",
    new="",
)

FIRST = load("batch_size=self.batch_size,\n    num_workers=self.num_workers", batch_size="self.batch_size")
SECOND = load("batch_size=self.valid_batch_size,\n    num_workers=self.num_workers")
THIRD = load("batch_size=self.valid_batch_size", last="\n    **self.dataloaders_kwargs")

BY_LIGHTNING_1 = "def validation_epoch_end(self, outputs)"
BY_LIGHTNING_2 = "def on_validation_epoch_end(self)"
PASSED = {
    WINDOWS: hooked("BaseWindows", BY_LIGHTNING_1, mean_of_passed("BaseWindows")),
    RECURRENT: hooked("BaseRecurrent", BY_LIGHTNING_1, mean_of_passed("BaseRecurrent")),
}
PASSED_TO_TFT = {TFT: Rewrite((mean_of_passed("TFT"),), imports=("validation",))}
KEPT = {
    WINDOWS: hooked("BaseWindows", BY_LIGHTNING_2, mean_of_kept("BaseWindows")),
    RECURRENT: hooked("BaseRecurrent", BY_LIGHTNING_2, mean_of_kept("BaseRecurrent")),
    MULTIVARIATE: hooked("BaseMultivariate", BY_LIGHTNING_2, mean_of_kept("BaseMultivariate")),
}
REDUCED = Change(EPOCH_END, LOGGED_OUTPUTS.format("True"), LOGGED_OUTPUTS.format("validation.is_loss_reduced(self)"))


def in_model(*changes: Change) -> dict[str, Rewrite]:
    """The changes in the base class of all models, from 1.7.0 on."""
    return {MODEL: hooked("BaseModel", BY_LIGHTNING_2, *changes)}


def in_logging_model(*changes: Change) -> dict[str, Rewrite]:
    """The changes in the base class of all models that logs two losses which early stopping may monitor."""
    rewrite = in_model(*changes, *LOGS)[MODEL]
    return {MODEL: rewrite._replace(imports=("compat", "validation"))}


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
        ">=1.0.0,<1.3": {DATASET: FIRST, **PASSED},
        "==1.3.0": {DATASET: FIRST, **PASSED, **PASSED_TO_TFT},
        "==1.4.0": {DATASET: SECOND, **PASSED, **PASSED_TO_TFT},
        ">=1.5,<1.7": {DATASET: SECOND, **KEPT},
        "==1.7.0": {DATASET: SECOND, **in_model(mean_of_kept("BaseModel"))},
        "==1.7.1": {DATASET: SECOND, **in_model(mean_of_kept("BaseModel"), REDUCED)},
        ">=1.7.2,<1.7.6": {DATASET: SECOND, **in_model(*mean_of_losses("losses.mean()"))},
        ">=1.7.6,<3.1.6": {DATASET: THIRD, **in_model(*LOSSES)},
        ">=3.1.6,<3.2.1": {DATASET: THIRD, **in_logging_model(*LOSSES)},
        ">=3.2.1": {DATASET: THIRD, **in_logging_model(TOTALS, ALL_WINDOWS)},
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
            launchers=("torchrun", "script"),  # with other launchers only one process is left
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
