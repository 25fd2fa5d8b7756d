"""On Spark each rank trains on one file, and each partition is predicted by itself, whatever series are in them.

Spark writes no file for an empty partition: with one series on two devices a rank finds none, `IndexError: list index
out of range`. Where it writes several for one (`spark.sql.files.maxRecordsPerFile`), only as many as there are ranks
are read, a series may end in the middle, and predict forecasts its pieces, each for itself. And a multivariate model
needs all series: releases before 3.0 refuse to train it on Spark, later ones train it with those of a rank's own file,
or crash, and predict it so.

The patch deals out what each Spark task has written, series by series where there are fewer than ranks; a multivariate
model gets all. What is predicted is a partition of whole series, and of all where each is forecast from all of them.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

CORE, DATASET = "neuralforecast/core.py", "neuralforecast/tsdataset.py"

OWN_SERIES = Change(
    where="_DistributedTimeSeriesDataModule.setup",
    old="df = pd.read_parquet(self.files_ds.files[dist.get_rank()])",
    new="""
by_task = {}  # a Spark task writes no file, one or several, but all of a series
for file in self.files_ds.files:
    name = file.rsplit("/", 1)[-1]
    task = name.split("-")[1] if name.startswith("part-") else name
    by_task.setdefault(task, []).append(file)
tasks = [by_task[task] for task in sorted(by_task)]
rank, n_ranks = dist.get_rank(), dist.get_world_size()
if getattr(self.trainer.lightning_module, "MULTIVARIATE", False):
    files = self.files_ds.files
elif len(tasks) < n_ranks:
    files = tasks[rank % len(tasks)]
else:
    files = [file for task in tasks[rank::n_ranks] for file in task]
df = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
if len(tasks) < n_ranks and files is not self.files_ds.files:
    # Several ranks share these series, and each has one at least
    ids = df[self.files_ds.id_col].unique()
    n_sharing = len(range(rank % len(tasks), n_ranks, len(tasks)))
    first = rank // len(tasks)
    own = ids[first::n_sharing] if first < len(ids) else ids[[first % len(ids)]]
    df = df[df[self.files_ds.id_col].isin(own)].reset_index(drop=True)
""",
)

REPARTITION = "df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)"


def whole_series(function: str) -> Change:
    """No partition has a part of a series, nor of those that are forecast from each other."""
    return Change(
        where=f"NeuralForecast.{function}",
        old=f"""
if repartition:
    {REPARTITION}
""",
        new=f"""
needs_all = any(
    # a multivariate model, or HINT, whose forecasts add up
    getattr(model, "MULTIVARIATE", False)
    or getattr(model, "SAMPLING_TYPE", "") == "multivariate"
    or hasattr(model, "S")
    for model in self.models
)
if needs_all:
    df = df.repartition(1)
else:
    # whatever was read from files, too: a series may lie in several
    {REPARTITION}
""",
    )


# Up to 1.7.2 there is but one statement for all of it, to which a frame comes that Spark has read
NEEDED = "needed_futr_exog = self._get_needed_futr_exog()"
READ_BEFORE = Change(
    where="NeuralForecast.predict",
    old=NEEDED,
    new=f"""
is_on_spark = isinstance(df, SparkDataFrame) or (
    df is None and isinstance(getattr(self, "dataset", None), _FilesDataset)
)
if is_on_spark and any(model.SAMPLING_TYPE == "multivariate" or hasattr(model, "S") for model in self.models):
    raise ValueError(
        "Spark predicts the series in parts, and some of these models forecast each from all of them. "
        "Pass a pandas or polars DataFrame as `df`."
    )
if is_on_spark and df is None and engine is not None:
    # A series may lie in several files: what is passed is put together again
    df = engine.read.parquet(*self.dataset.files)
{NEEDED}
""",
)

PREDICT, SIMULATE = whole_series("_predict_distributed"), whole_series("_simulate_distributed")
NHITS = {"mlp_units": [[8, 8]] * 3}
BESIDE = ("spark-predict-scalers",)

patch = Patch(
    id="spark-series-of-ranks",
    summary="on Spark, devices get no series, parts of them, or not all that a multivariate model needs",
    symptoms=("IndexError: list index out of range", "mat1 and mat2 shapes cannot be multiplied"),
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-series-of-ranks.md",
    variants={
        ">=1.7.1,<1.7.3": {DATASET: Rewrite((OWN_SERIES,)), CORE: Rewrite((READ_BEFORE,))},
        ">=1.7.3,<3.1.6": {DATASET: Rewrite((OWN_SERIES,)), CORE: Rewrite((PREDICT,))},
        ">=3.1.6": {DATASET: Rewrite((OWN_SERIES,)), CORE: Rewrite((PREDICT, SIMULATE))},
    },
    unaffected={"<1.7.1": "this release knows no Spark"},
    cases=(
        Case("NHITS", "one series", options=NHITS, stage="single-series", launchers=("spark",), requires=BESIDE),
        Case(
            "NHITS", "more files than devices", options=NHITS, stage="cut-files", launchers=("spark",), requires=BESIDE
        ),
        Case(
            "MLPMultivariate",
            "multivariate",
            options={"hidden_size": 8},
            stage="predict",
            releases=">=3.0",
            launchers=("spark",),
            requires=("multivariate-all-series", "spark-trainer-arguments", *BESIDE),
        ),
    ),
)
