"""predict on several devices takes as long as on one.

Each process predicts all series by itself (`predict-on-one-device`), because Lightning returns to each process only the
predictions of its own shard. Issue 392 has asked for more since January 2023. With this patch the processes share the
batches of one process in `predict`, `predict_insample`, `cross_validation` and `simulate`, and each gets the forecasts
of all, bit for bit those of one process. From 3.0.0 on `predict_insample` predicts one series at a time, and the
processes share these.

It is opt-in, because a script that predicts on one process only waits for the others, once and for ten seconds. Some
predictions are not shared: those that draw random numbers (DistributionLoss, GMM, PMM, NBMM, DeepAR, HINT on these,
Informer), and those of multivariate models, which have a single batch of series.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

CORE, COMMON = "neuralforecast/core.py", "neuralforecast/common/"
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


def series_shared(loop: str, series: str, inside: tuple[str, ...] = ()) -> Rewrite:
    """Let the ranks share the series of a loop of `predict_insample`, which gets another iterable."""
    change = Change(
        "NeuralForecast.predict_insample",
        old=loop.format(series="enumerate(trimmed_datasets)"),
        new=loop.format(series=series),
        inside=inside,
    )
    return Rewrite((change,), imports=("prediction",))


def one_loop(end: str) -> Rewrite:
    """Let the ranks share the series which are predicted by all models in turn."""
    series = "prediction.share_series(\n    self.models, trimmed_datasets, fcst_list, step_size, quantiles_\n)"
    return series_shared(f"{FORECASTS_OF_SERIES}{end}{KEEP_FORECASTS}", series)


# 3.0.0 and 3.0.1: each model predicts all series
PREDICTIONS_OF_MODEL = """
for i, trimmed_dataset in {series}:
    model.set_test_size(test_size=trimmed_dataset.max_size)
    model_fcsts = model.predict(trimmed_dataset, step_size=step_size)
    if len(model_fcsts.shape) > 1 and model_fcsts.shape[1] == 3:
        model_fcsts = model_fcsts[:, 0]
    if len(model_fcsts.shape) == 1:
        model_fcsts = model_fcsts.reshape(-1, 1)
    model_series_preds.append(model_fcsts)
"""
FORECASTS_OF_SERIES = """
for i, trimmed_dataset in {series}:
    self.h = trimmed_dataset.max_size
    fcsts, cols = self._generate_forecasts(
        dataset=trimmed_dataset,
        uids=self.uids[i : i + 1],
        quantiles_=quantiles_,
        level_=level_,
        has_level=has_level,
        step_size=step_size,
"""
KEEP_FORECASTS = """    )
    fcst_list.append(fcsts)
"""

BY_MODEL = series_shared(
    PREDICTIONS_OF_MODEL,
    "prediction.share_series(\n    [model], trimmed_datasets, model_series_preds, step_size\n)",
    inside=("for model in self.models:",),
)

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
        ">=3.0.0,<3.0.2": {MODEL: shared("BaseModel"), CORE: BY_MODEL},
        "==3.0.2": {MODEL: shared("BaseModel"), CORE: one_loop("")},
        ">=3.1.0": {
            MODEL: shared("BaseModel", inside=("if self.explain:", "else:")),
            CORE: one_loop("        h=None,\n"),
        },
    },
    unaffected={},
    # Unpatched, the ranks fail without `predict-on-one-device`, up to 2.0.1 with its symptoms. A case shows that shared
    # forecasts equal those of one process, not that they were shared
    cases=(
        Case("NHITS", "predict, a batch a series", options=NHITS, stage="predict", releases=">=3.0"),
        Case("GRU", "predict, a batch a series", options=GRU, stage="predict", thorough=True, releases=">=3.0"),
        Case(
            "NHITS",
            "predict, DistributionLoss, by each rank",
            loss="DistributionLoss",
            options=NHITS,
            stage="predict",
            thorough=True,
            releases=">=3.0",
        ),
        Case(
            "NHITS",
            "predict_insample, a batch a series",
            options=NHITS,
            stage="insample",
            thorough=True,
            original_hangs=True,
            releases=">=1.5",
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
