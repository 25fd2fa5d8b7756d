"""What the docs state of a patched release on Spark, checked in local mode: one function per statement.

`python spark_statements.py OUT [NAME...]` writes to OUT/rank-0.json, for each statement or those named, "holds" or the
error that it raised.
"""

import contextlib
import inspect
import json
import os
import sys
import tempfile

import numpy as np
import pandas as pd
import torch
from neuralforecast import DistributedConfig, NeuralForecast, models
from neuralforecast.losses.pytorch import GMM, RMSE, MQLoss
from neuralforecast.utils import AirPassengersPanel
from pyspark.sql import SparkSession
from pytorch_lightning.strategies import DDPStrategy

H = 12
NHITS = {"mlp_units": [[8, 8]] * 3}
KEYS = ["unique_id", "ds"]
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
RELEASE = tuple(int(number) for number in __import__("neuralforecast").__version__.split("."))


def started():
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def panel(n_series):
    first = AirPassengersPanel[AirPassengersPanel["unique_id"] == "Airline1"][["unique_id", "ds", "y"]]
    series = [first.assign(unique_id=f"series-{n}", y=first["y"] * 30.0 ** (n % 3) + n) for n in range(n_series)]
    return pd.concat(series, ignore_index=True)


def forecaster_of(model_name="NHITS", **options):
    options = {"h": H, "input_size": 24, "max_steps": 3, "random_seed": 1, **QUIET, **options}
    return NeuralForecast(models=[getattr(models, model_name)(**options)], freq="M")


@contextlib.contextmanager
def partitions(n_nodes=1):
    with tempfile.TemporaryDirectory() as folder:
        yield DistributedConfig(os.path.join(folder, "files"), num_nodes=n_nodes, devices=2 // n_nodes)


def fitted(forecaster, data, config, **options):
    forecaster.fit(df=SPARK.createDataFrame(data), distributed_config=config, **options)
    return forecaster


def rows_of(frame):
    """The rows as a pandas DataFrame, sorted by series and time."""
    frame = frame.toPandas() if hasattr(frame, "toPandas") else frame
    frame = frame if "unique_id" in frame.columns else frame.reset_index()
    return frame.sort_values(KEYS).reset_index(drop=True)


def check_same(actual, expected):
    """Check that the rows are the same, and the numbers to seven digits: Spark predicts fewer series at once."""
    actual, expected = rows_of(actual), rows_of(expected)
    assert actual.shape == expected.shape, f"{actual.shape}, expected {expected.shape}"
    assert (actual[KEYS].to_numpy() == expected[KEYS].to_numpy()).all(), "series or times differ"
    np.testing.assert_allclose(actual.drop(columns=KEYS), expected.drop(columns=KEYS), rtol=1e-6)


def validated(model_name, **options):
    """The validation losses of untrained weights: on Spark, where one rank has one more series, and in one process."""
    data = panel(3)
    options = {"learning_rate": 0.0, "max_steps": 1, "val_check_steps": 1, **options}
    with partitions() as config:
        found = fitted(forecaster_of(model_name, **options), data, config, val_size=H)
    single = forecaster_of(model_name, **options)
    single.fit(df=data, val_size=H)
    return [float(forecaster.models[0].metrics["ptl/val_loss"]) for forecaster in (found, single)]


def exogenous_features():
    """`fit` and `predict` use each series' own static and future features."""
    data = panel(4).assign(month=lambda frame: frame["ds"].dt.month * 1.0)
    static = pd.DataFrame({"unique_id": data["unique_id"].unique(), "level": np.arange(4.0)})
    past, future = (data.groupby("unique_id").head(-H), data.groupby("unique_id").tail(H)[[*KEYS, "month"]])
    options = {**NHITS, "futr_exog_list": ["month"], "stat_exog_list": ["level"]}
    on_spark = {"static_df": SPARK.createDataFrame(static), "futr_df": SPARK.createDataFrame(future)}
    with partitions() as config:
        forecaster = fitted(forecaster_of(**options), past, config, static_df=on_spark["static_df"])
        expected = forecaster.predict(df=past, static_df=static, futr_df=future)
        check_same(forecaster.predict(engine=SPARK, futr_df=on_spark["futr_df"]), expected)
        check_same(forecaster.predict(df=SPARK.createDataFrame(past), **on_spark), expected)


def strategies():
    """A strategy object, and the name of a strategy that starts processes, are used as DDP with their options."""
    for strategy in (DDPStrategy(find_unused_parameters=False), "ddp_notebook", "ddp_find_unused_parameters_true"):
        with partitions() as config:
            fitted(forecaster_of(**NHITS, strategy=strategy), panel(4), config)


def a_series_in_two_files():
    """A series in two files, which Spark reads into two partitions, is forecast once, from all of its values."""
    names = {"maxRecordsPerFile": 100, "openCostInBytes": 1, "maxPartitionBytes": 4000}
    for name, value in names.items():
        SPARK.conf.set(f"spark.sql.files.{name}", value)
    data = panel(2)
    try:
        with partitions() as config:
            forecaster = fitted(forecaster_of(**NHITS), data, config)
            assert len(forecaster.dataset.files) == 4
            check_same(forecaster.predict(engine=SPARK), forecaster.predict(df=data))
    finally:
        for name in names:
            SPARK.conf.unset(f"spark.sql.files.{name}")


def coherent_forecasts():
    """From 3.1.9 on, HINT's forecasts of a total and its parts add up, although Spark predicts the series in parts."""
    parts = panel(2)
    total = parts.groupby("ds", as_index=False)["y"].sum().assign(unique_id="a-total")
    data = pd.concat([total, parts], ignore_index=True)[["unique_id", "ds", "y"]]
    model = models.NHITS(h=H, input_size=24, max_steps=3, random_seed=1, loss=GMM(n_components=2), **NHITS, **QUIET)
    summing = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    hint = models.HINT(h=H, S=summing, model=model, reconciliation="BottomUp")
    with partitions() as config:
        forecaster = fitted(NeuralForecast(models=[hint], freq="M"), data, config)
    frame = SPARK.createDataFrame(data).repartition(3, "unique_id")
    found = rows_of(forecaster.predict(df=frame))
    assert len(found) == 3 * H, f"{len(found)} rows"
    if RELEASE < (3, 1, 9):  # `HINT.fit` returns the model inside it, which takes its place, in one process as well
        assert isinstance(forecaster.models[0], models.NHITS)
        return
    number = next(name for name in found.columns if name not in KEYS)
    by_time = found.assign(is_total=found["unique_id"] == "a-total").groupby(["is_total", "ds"])[number].sum()
    np.testing.assert_allclose(by_time[True], by_time[False], rtol=1e-5)


def multivariate_models():
    """They train on Spark from 3.0 on, with several nodes as well, and raise before; they predict from 1.7.3 on."""
    data = panel(4)
    frame = SPARK.createDataFrame(data).repartition(4, "unique_id")
    make = lambda: forecaster_of("MLPMultivariate", n_series=4, hidden_size=8)  # noqa: E731
    single = make()
    single.fit(df=data)
    if RELEASE < (1, 7, 3):
        check_raises(lambda: single.predict(df=frame), "Spark predicts the series in parts")
    else:
        check_same(single.predict(df=frame), single.predict(df=data))
    if RELEASE < (3,):
        with partitions() as config:
            message = "multivariate models cannot be trained using distributed data parallel"
            check_raises(lambda: fitted(make(), data, config), message)
        return
    for n_nodes in (1, 2):
        with partitions(n_nodes) as config:
            forecaster = fitted(make(), data, config)
            check_same(forecaster.predict(engine=SPARK), forecaster.predict(df=data))


def validation_losses():
    """A validation loss that is a mean over series equals that of one process; RMSE, which is not, differs."""
    for loss in ({}, {"loss": MQLoss(level=[80])}):
        actual, expected = validated("NHITS", **NHITS, **loss)
        assert abs(actual - expected) <= 1e-6 * expected, f"{actual}, expected {expected}"
    actual, expected = validated("NHITS", **NHITS, loss=RMSE())
    assert abs(actual - expected) > 0.01 * expected, "RMSE no longer differs: update the docs"


def epochs_of_different_lengths():
    """A fit does not hang if one device has more batches than another, whichever loss stops it early."""
    options = {"batch_size": 1, "max_steps": 4, "val_check_steps": 2, "early_stop_patience_steps": 2}
    for monitor in ("ptl/val_loss", "train_loss") if RELEASE >= (3, 1, 6) else ("",):
        options_of_monitor = {"val_monitor": monitor} if monitor else {}
        with partitions() as config:
            fitted(forecaster_of(**NHITS, **options, **options_of_monitor), panel(3), config, val_size=H)


def a_search():
    """An Optuna search trains its trials on Spark, one after another; a ray search raises."""
    from neuralforecast.auto import AutoNHITS

    def config(trial):
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2)
        return {"input_size": 24, "max_steps": 2, "learning_rate": rate, **NHITS, **QUIET}

    data = panel(4)
    searching = AutoNHITS(h=H, config=config, num_samples=2, backend="optuna")
    with partitions() as where:
        forecaster = fitted(NeuralForecast(models=[searching], freq="M"), data, where, val_size=H)
        check_same(forecaster.predict(engine=SPARK), forecaster.predict(df=data))
    through_ray = AutoNHITS(h=H, config={"input_size": 24, "max_steps": 2}, num_samples=1)
    with partitions() as where:
        forecaster = NeuralForecast(models=[through_ray], freq="M")
        message = "distributed training is not supported for the ray backend"
        check_raises(lambda: fitted(forecaster, data, where, val_size=H), message)


def saving():
    """A forecaster is saved without its data; loaded, it predicts given frames, of Spark or of pandas."""
    data = panel(4)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 need it to load with torch 2.6
    with partitions() as config, tempfile.TemporaryDirectory() as folder:
        forecaster = fitted(forecaster_of(**NHITS), data, config)
        check_raises(lambda: forecaster.save(os.path.join(folder, "all")), "Cannot save distributed dataset")
        forecaster.save(os.path.join(folder, "model"), save_dataset=False)
        loaded = NeuralForecast.load(os.path.join(folder, "model"))
        check_same(loaded.predict(df=SPARK.createDataFrame(data)), forecaster.predict(df=data))


def a_second_fit():
    """`fit` of a model whose weights were changed after its creation starts from the changed weights."""
    forecaster = forecaster_of(**NHITS, learning_rate=0.0)
    with torch.no_grad():
        for parameter in forecaster.models[0].parameters():
            parameter.add_(0.01)
    learned = {name: each.clone() for name, each in forecaster.models[0].state_dict().items()}
    with partitions() as config:
        found = fitted(forecaster, panel(4), config).models[0].state_dict()
    assert all(torch.equal(each, found[name]) for name, each in learned.items())


def what_is_not_supported():
    """`cross_validation` and `predict_insample` do not work on Spark: both raise."""
    with partitions() as config:
        forecaster = fitted(forecaster_of(**NHITS), panel(4), config)
        check_raises(forecaster.predict_insample, "")
        check_raises(lambda: forecaster.cross_validation(df=SPARK.createDataFrame(panel(4)), n_windows=2), "")


def check_raises(action, message):
    raised = None
    try:
        action()
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    assert raised is not None, f"this works, expected an error: {message}"
    assert message in raised, raised


SPARK = started()
STATEMENTS = {
    name: function
    for name, function in globals().copy().items()
    if inspect.isfunction(function) and not inspect.signature(function).parameters and name not in ("started",)
}
found = {}
for name in sys.argv[2:] or STATEMENTS:
    try:
        STATEMENTS[name]()
        found[name] = "holds"
    except Exception as error:
        found[name] = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
    print(f"{name}: {found[name]}", flush=True)
with open(os.path.join(sys.argv[1], "rank-0.json"), "w", encoding="utf-8") as file:
    json.dump(found, file)
SPARK.stop()
