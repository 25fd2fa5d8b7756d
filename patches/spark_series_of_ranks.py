"""On Spark each rank trains on one file and each partition is predicted by itself, whichever series they contain.

Spark writes no file for an empty partition: with one series on two devices a rank finds none, `IndexError: list index
out of range`. If it writes several files for one partition (`spark.sql.files.maxRecordsPerFile`), only as many as there
are ranks are read, a series may be cut, and predict forecasts its pieces separately. And a multivariate model needs all
series: releases before 3.0 refuse to train it on Spark, later ones train and predict it with the series of one file, or
crash.

The patch gives each rank the files of whole Spark tasks, or whole series if there are fewer tasks than ranks; a
multivariate model gets all series. Each partition that is predicted has whole series, or all if a forecast needs them.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

CORE, DATASET = "neuralforecast/core.py", "neuralforecast/tsdataset.py"
MODULES = ("spark",)

OWN_SERIES = Change(
    where="_DistributedTimeSeriesDataModule.setup",
    old="df = pd.read_parquet(self.files_ds.files[dist.get_rank()])",
    new="df = spark.read_own_series(self)",
)

REPARTITION = """
if repartition:
    df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)
"""


def whole_series(function: str) -> Change:
    """Partition by whole series, or into one partition if forecasts depend on other series."""
    new = "df = spark.partition_by_series(df, self.models, self.id_col)"
    return Change(f"NeuralForecast.{function}", old=REPARTITION, new=new)


# Up to 1.7.2 only a frame that was passed is repartitioned, so the stored one is read before
NEEDED = "needed_futr_exog = self._get_needed_futr_exog()"
READ_BEFORE = Change("NeuralForecast.predict", NEEDED, f"df = spark.read_whole_series(self, df, engine)\n{NEEDED}")
ON_SPARK = (
    'if isinstance(df, SparkDataFrame) or (df is None and isinstance(getattr(self, "dataset", None), _FilesDataset)):'
)
PREDICTED_HERE = Change("NeuralForecast.predict", old="import fugue.api as fa", inside=(ON_SPARK,))


def rewrites(*of_core: Change) -> Mapping[str, Rewrite]:
    """The codemods that give each rank its series, with these changes of the prediction."""
    return {DATASET: Rewrite((OWN_SERIES,), imports=MODULES), CORE: Rewrite(of_core, imports=MODULES)}


PREDICT, SIMULATE = whole_series("_predict_distributed"), whole_series("_simulate_distributed")
NHITS = {"mlp_units": [[8, 8]] * 3}
REQUIRED = ("spark-predict-scalers",)

patch = Patch(
    id="spark-series-of-ranks",
    summary="on Spark, ranks get no series, parts of series, or not all that a multivariate model needs",
    symptoms=("IndexError: list index out of range", "mat1 and mat2 shapes cannot be multiplied"),
    ambiguous=("IndexError: list index out of range", "mat1 and mat2 shapes cannot be multiplied"),
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-series-of-ranks.md",
    variants={
        ">=1.7.1,<1.7.3": rewrites(READ_BEFORE, PREDICTED_HERE),
        ">=1.7.3,<3.1.6": rewrites(PREDICT),
        ">=3.1.6": rewrites(PREDICT, SIMULATE),
    },
    unaffected={"<1.7.1": "this release does not train on Spark"},
    cases=(
        Case("NHITS", "one series", options=NHITS, stage="single-series", launchers=("spark",), requires=REQUIRED),
        Case(
            "NHITS",
            "more files than devices",
            options=NHITS,
            stage="cut-files",
            launchers=("spark",),
            requires=REQUIRED,
        ),
        Case(
            "MLPMultivariate",
            "multivariate",
            options={"hidden_size": 8},
            stage="predict",
            releases=">=3.0",
            launchers=("spark",),
            requires=("multivariate-all-series", "spark-trainer-arguments", *REQUIRED),
        ),
    ),
)
