"""predict on several devices takes as long as on one.

Each process predicts all series by itself (`predict-on-one-device`), as Lightning gives each the predictions of its own
share only. Issue 392 asks for more since January 2023. With this patch the processes share the batches of one process
in `predict`, `predict_insample`, `cross_validation` and `simulate`, and each gets the forecasts of all, bit for bit
those of one process. From 3.0.0 on `predict_insample` predicts one series at a time, which leaves nothing to share.

It is a choice, and so opt-in: a script that predicts on one process only waits for the others, once and for ten
seconds. A prediction that draws random numbers (DistributionLoss, GMM, PMM, NBMM, DeepAR, HINT on these, Informer) is
made by each process as without the patch, and so is one of a multivariate model, which has but one batch of series.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MULTIVARIATE, MODEL = (
    f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "multivariate", "model")
)


def shared(class_: str, inside: tuple[str, ...] = (), datamodule: str = "datamodule") -> Rewrite:
    """Let the ranks share the batches of `predict` of this class."""
    change = Change(
        f"{class_}.predict",
        old=f"fcsts = trainer.predict(self, datamodule={datamodule})",
        new=f"fcsts = prediction.predict(trainer, self, {datamodule})",
        inside=inside,
    )
    return Rewrite((change,), imports=("prediction",))


FIRST = {
    WINDOWS: shared("BaseWindows"),
    RECURRENT: shared("BaseRecurrent", datamodule="TimeSeriesDataModule(dataset, **data_kwargs)"),
}
UNIVARIATE = {WINDOWS: shared("BaseWindows"), RECURRENT: shared("BaseRecurrent")}
NHITS = {"mlp_units": [[8, 8], [8, 8], [8, 8]], "valid_batch_size": 1}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8, "valid_batch_size": 1}

patch = Patch(
    id="predict-on-all-devices",
    summary="predict on several devices takes as long as on one",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/predict-on-all-devices.md",
    variants={
        "==1.0.0": FIRST,
        ">=1.1.0,<1.5.0": UNIVARIATE,
        ">=1.5.0,<3.0.0": {**UNIVARIATE, MULTIVARIATE: shared("BaseMultivariate")},
        ">=3.0.0,<3.1.0": {MODEL: shared("BaseModel")},
        ">=3.1.0": {MODEL: shared("BaseModel", inside=("if self.explain:", "else:"))},
    },
    unaffected={},
    # Released, the ranks fail for want of `predict-on-one-device`, up to 2.0.1 with its symptoms; a case tells whether
    # shared forecasts are those of one process, and not whether they were shared
    cases=(
        Case("NHITS", "predict, a batch a series", options=NHITS, stage="predict", releases=">=3.0"),
        Case("GRU", "predict, a batch a series", options=GRU, stage="predict", thorough=True, releases=">=3.0"),
        Case(
            "NHITS",
            "predict_insample, a batch a series",
            options=NHITS,
            stage="insample",
            thorough=True,
            original_hangs=True,
            releases=">=1.5,<3.0",  # later it predicts one series at a time
        ),
        Case(
            "NHITS",
            "cross_validation, a batch a series",
            options=NHITS,
            stage="cross-validation",
            original_hangs=True,
            releases=">=1.4",
        ),
    ),
    requires=("predict-on-one-device",),
    opt_in=True,
)
