"""fit on Spark fails if the partitions are on DBFS.

fsspec's file system of Databricks lists files as dictionaries, unless names are requested: `'dict' object has no
attribute 'endswith'`. And files that the cluster mounts, under /dbfs, can be read by pandas without a token. Since
3.2.1 (pull request 1576) upstream does both; but without a mount, the path of a file has one slash,
`dbfs:/partitions/part-0`, which pandas treats as a local path.

The patch was not tested on a Databricks cluster, but with fsspec's own file system and Spark in local mode, both set up
to read local files.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/core.py"

LIST = """
files = [
    f"{protocol}://{file}"
    for file in fs.ls(distributed_config.partitions_path)
    if file.endswith("parquet")
]
"""
LIST_NAMES = """
files = spark.list_parquet_files(
    fs, protocol, distributed_config.partitions_path
)
"""


def list_names(function: str, *inside: str) -> Rewrite:
    """List the files as pandas can read them, in these statements of this function."""
    change = Change(f"NeuralForecast.{function}", old=LIST, new=LIST_NAMES, inside=inside)
    return Rewrite((change,), imports=("spark",))


DATA = "if isinstance(df, (pd.DataFrame, pl_DataFrame)):"
ON_SPARK = "elif isinstance(df, SparkDataFrame):"
IN_FIT, IN_METHOD = list_names("fit", DATA, ON_SPARK), list_names("_prepare_fit_distributed")

NO_MOUNT = """
if os.path.isdir("/dbfs"):
    return fuse_path
return path
"""
URI_WITHOUT_MOUNT = """
if os.path.isdir("/dbfs"):
    return fuse_path
return f"dbfs://{rest}"
"""

patch = Patch(
    id="spark-dbfs-paths",
    summary="fit on Spark fails where the partitions lie on DBFS",
    symptoms=("'dict' object has no attribute 'endswith'", "No such file or directory: 'dbfs:/"),
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-dbfs-paths.md",
    variants={
        ">=1.7.1,<1.7.3": {FILE: IN_FIT},
        ">=1.7.3,<3.2.1": {FILE: IN_METHOD},
        ">=3.2.1": {FILE: Rewrite((Change("_dbfs_path_for_pandas", old=NO_MOUNT, new=URI_WITHOUT_MOUNT),))},
    },
    unaffected={"<1.7.1": "this release does not train on Spark"},
    cases=(
        Case(
            "NHITS",
            "partitions on DBFS",
            options={"mlp_units": [[8, 8]] * 3},
            stage="on-dbfs",
            launchers=("spark",),
            requires=("spark-predict-scalers",),
        ),
    ),
)
