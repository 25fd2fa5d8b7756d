"""fit on Spark fails where the partitions lie on DBFS.

fsspec's file system of Databricks lists files as dictionaries, unless it is asked for names: `'dict' object has no
attribute 'endswith'`. And what it lists pandas reads more easily where the cluster mounts it, under /dbfs, which Spark
reads as well. Since 3.2.1 (pull request 1576) both are seen to; but where there is no mount, a file has one slash,
`dbfs:/partitions/part-0`, which pandas takes for a path of this machine.

A cluster of Databricks was not at hand: what is shown is fsspec's own file system, on files of this machine.
"""

from textwrap import indent

from nfpatch.catalog import Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/core.py"

FILES, NAMED_FILES = (
    """
files = [
    f"{protocol}://{file}"
    for file in fs.ls(distributed_config.partitions_path)
    if file.endswith("parquet")
]
""",
    """
mount = None
if protocol == "dbfs" and fsspec.filesystem("file").isdir("/dbfs"):
    mount = "file:///dbfs"  # which pandas reads without a token
files = [
    f"{protocol}://{file}" if mount is None else mount + file
    for file in fs.ls(distributed_config.partitions_path, detail=False)
    if file.endswith("parquet")
]
""",
)

NO_MOUNT, URI_WITHOUT_MOUNT = (
    """
if os.path.isdir("/dbfs"):
    return fuse_path
return path
""",
    """
if os.path.isdir("/dbfs"):
    return fuse_path
return f"dbfs://{rest}"  # else pandas looks for a file of this machine
""",
)

# The whole of it up to 1.7.2, in NeuralForecast.fit
IF_SPARK = """
if isinstance(df, (pd.DataFrame, pl_DataFrame)):
    validate_freq(df[time_col], self.freq)
    self.dataset, self.uids, self.last_dates, self.ds = self._prepare_fit(
        df=df,
        static_df=static_df,
        sort_df=sort_df,
        predict_only=False,
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
    )
    self.sort_df = sort_df
elif isinstance(df, SparkDataFrame):
    if distributed_config is None:
        raise ValueError(
            "Must set `distributed_config` when using a spark dataframe"
        )
    if self.local_scaler_type is not None:
        raise ValueError(
            "Historic scaling isn't supported in distributed. "
            "Please open an issue if this would be valuable to you."
        )
    temporal_cols = [c for c in df.columns if c not in (id_col, time_col)]
    if static_df is not None:
        if not isinstance(static_df, SparkDataFrame):
            raise ValueError(
                "`static_df` must be a spark dataframe when `df` is a spark dataframe."
            )
        static_cols = [c for c in static_df.columns if c != id_col]
        df = df.join(static_df, on=[id_col], how="left")
    else:
        static_cols = None
    self.id_col = id_col
    self.time_col = time_col
    self.target_col = target_col
    self.scalers_ = {}
    self.sort_df = sort_df
    num_partitions = distributed_config.num_nodes * distributed_config.devices
    df = df.repartitionByRange(num_partitions, id_col)
    df.write.parquet(path=distributed_config.partitions_path, mode="overwrite")
    fs, _, _ = fsspec.get_fs_token_paths(distributed_config.partitions_path)
    protocol = fs.protocol
    if isinstance(protocol, tuple):
        protocol = protocol[0]
    FILES
    self.dataset = _FilesDataset(
        files=files,
        temporal_cols=temporal_cols,
        static_cols=static_cols,
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
        min_size=df.groupBy(id_col).count().agg({"count": "min"}).first()[0],
    )
elif df is None:
    if verbose:
        print("Using stored dataset.")
else:
    raise ValueError(
        f"`df` must be a pandas, polars or spark DataFrame or `None`, got: {type(df)}"
    )
"""


def of_one_statement(files: str) -> str:
    """NeuralForecast.fit with these."""
    return IF_SPARK.replace("    FILES\n", indent(files.strip("\n"), "    ") + "\n")


patch = Patch(
    id="spark-dbfs-paths",
    summary="fit on Spark fails where the partitions lie on DBFS",
    symptoms=("'dict' object has no attribute 'endswith'", "No such file or directory: 'dbfs:/"),
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-dbfs-paths.md",
    variants={
        ">=1.7.1,<1.7.3": {
            FILE: Rewrite(
                (
                    Change(
                        where="NeuralForecast.fit",
                        old=of_one_statement(FILES),
                        new=of_one_statement(NAMED_FILES),
                    ),
                )
            )
        },
        ">=1.7.3,<3.2.1": {
            FILE: Rewrite((Change("NeuralForecast._prepare_fit_distributed", old=FILES, new=NAMED_FILES),))
        },
        ">=3.2.1": {FILE: Rewrite((Change("_dbfs_path_for_pandas", old=NO_MOUNT, new=URI_WITHOUT_MOUNT),))},
    },
    unaffected={
        "<1.7.1": "this release knows no Spark",
    },
    cases=(),
    why_no_cases="it shows on Databricks only; tests/journeys/test_dbfs.py shows it by fsspec's file system",
)
