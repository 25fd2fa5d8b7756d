"""Training and forecasting on a real Spark in local mode, whose driver is this process.

Spark starts the processes of a fit by torch's launcher, and those that predict by itself. They find this package and
the source tree by PYTHONPATH.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .events import CaseSpec, Training, TrainSpec
from .outcomes import Differs, FailedElsewhere

HERE = os.path.dirname(os.path.abspath(__file__))
PRETENDED = os.path.join(HERE, "pretended")
# The folder of Databricks' file system, through Hadoop for Spark and through fsspec for the processes that read it
DBFS_FOLDER = "/partitions"
# What torch's launcher puts before the last output of a rank, and the last line of a traceback
RANK_PREFIX = re.compile(r"^\[rank\d+\]:\s?", re.MULTILINE)
LAST_OF_TRACEBACK = re.compile(r"^(?:[\w.]*\.)?(\w*(?:Error|Exception): .*)", re.MULTILINE)
# Errors of a rank because another has exited, of the launcher because a rank has, and of Java around them
CONSEQUENCES = ("ChildFailedError", "Connection closed by peer", "Connection reset by peer", "Traceback", "Py4J")


class Spark:
    """The Spark session of the current source tree; there is one at a time."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec = spec
        self._path = os.environ.get("PYTHONPATH")
        self._tree: str | None = None
        self._session: Any = None

    def session(self, case: CaseSpec) -> Any:
        """The Spark session whose processes import the source tree of the case, started unless it runs.

        Java and Spark write into the folder for temporary files, which is removed with the proof.
        """
        spec, tree = self.spec, self.spec.trees[case.tree]
        if self._session is not None:
            if self._tree == tree:
                return self._session
            self._session.stop()
        from pyspark.sql import SparkSession

        temporary = tempfile.gettempdir()
        own = os.path.join(spec.out, "path")
        if not os.path.isdir(own):
            os.mkdir(own)
            os.symlink(HERE, os.path.join(own, __name__.split(".", 1)[0]))
        path = os.pathsep.join(filter(None, [own, tree, PRETENDED, self._path]))
        os.makedirs(dbfs_root() + DBFS_FOLDER, exist_ok=True)
        os.environ.update(
            PYTHONPATH=path,
            PYSPARK_PYTHON=sys.executable,
            PYSPARK_DRIVER_PYTHON=sys.executable,
            SPARK_LOCAL_IP="127.0.0.1",
            SPARK_LOCAL_DIRS=temporary,
            JAVA_TOOL_OPTIONS=f"-XX:-UsePerfData -Djava.io.tmpdir={temporary}",
        )
        builder = SparkSession.builder.master(f"local[{spec.world_size}]")
        settings = {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.executorEnv.PYTHONPATH": path,
            "spark.sql.shuffle.partitions": str(spec.world_size),
            "spark.sql.warehouse.dir": os.path.join(temporary, "warehouse"),
            "spark.ui.enabled": "false",
            "spark.hadoop.fs.dbfs.impl": "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme",
            "spark.hadoop.fs.viewfs.overload.scheme.target.dbfs.impl": "org.apache.hadoop.fs.LocalFileSystem",
            f"spark.hadoop.fs.viewfs.mounttable.default.link.{DBFS_FOLDER}": f"file://{dbfs_root()}{DBFS_FOLDER}",
        }
        for name, value in settings.items():
            builder = builder.config(name, value)
        self._tree, self._session = tree, builder.getOrCreate()
        return self._session

    def fit(self, forecaster: Any, case: CaseSpec, past: Any, **options: Any) -> None:
        """Trains on Spark: in the processes of one task, or for "several-tasks", of tasks with one device each.

        The partitions are files of this machine, or for "on-dbfs" of a pretended file system. Raises FailedElsewhere
        with the error of a process.
        """
        from neuralforecast import DistributedConfig

        spark, n_devices = self.session(case), self.spec.world_size
        n_nodes = n_devices if case.stage == "several-tasks" else 1
        folder = tempfile.mkdtemp(prefix="partitions-")
        if case.stage == "on-dbfs":
            from .pretended import pretended_dbfs

            pretended_dbfs.pretend(dbfs_root())
            folder = f"dbfs://{DBFS_FOLDER}/{os.path.basename(folder)}"
        config = DistributedConfig(f"{folder}/files", num_nodes=n_nodes, devices=n_devices // n_nodes)
        if "static_df" in options:
            options["static_df"] = spark.createDataFrame(options["static_df"])
        if case.stage == "cut-files":
            shortest, second = sorted(past.groupby("unique_id").size())[:2]
            spark.conf.set("spark.sql.files.maxRecordsPerFile", (shortest + second) // 2)
        try:
            with raise_first_error(self.spec):
                forecaster.fit(df=spark.createDataFrame(past), distributed_config=config, **options)
        finally:
            spark.conf.unset("spark.sql.files.maxRecordsPerFile")

    def predict(self, forecaster: Any, case: CaseSpec, futr_df: Any = None) -> tuple[Any, list[Any]]:
        """The forecasts on Spark, by series and time, and the series of each partition, predicted together."""
        from pyspark.sql.functions import spark_partition_id

        spark = self.session(case)
        known = {} if futr_df is None else {"futr_df": spark.createDataFrame(futr_df.drop(columns="y"))}
        with raise_first_error(self.spec):
            frame = forecaster.predict(engine=spark, **known).withColumn("partition", spark_partition_id()).toPandas()
        partitions = [part["unique_id"].unique().tolist() for _, part in frame.groupby("partition")]
        frame = frame.drop(columns="partition").sort_values(["unique_id", "ds"], kind="stable")
        return frame.reset_index(drop=True), partitions


def dbfs_root() -> str:
    """The folder of this machine in place of Databricks' file system."""
    return os.path.join(tempfile.gettempdir(), "dbfs")


def check_all_is_read(past: Any, trainings: list[Training]) -> None:
    """Raises Differs unless the ranks together, or each of them, have trained on all the data.

    The series of a multivariate model must have the same order on all ranks.
    """
    points = [training.points for training in trainings]
    if sum(points) != len(past) and set(points) != {len(past)}:
        raise Differs(f"the processes have trained on {points} of {len(past)} points in time")
    if len({training.batches for training in trainings}) > 1:
        raise Differs("the processes have trained on the series in different orders")


@contextmanager
def raise_first_error(spec: TrainSpec) -> Iterator[None]:
    """Replaces an error of Spark by that of the process that failed first, which a fit only prints to the log."""
    log = os.path.join(spec.out, "rank-0.log")
    start = os.path.getsize(log)
    try:
        yield
    except Exception as error:
        sys.stdout.flush()
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(start)
            first = first_error_in(file.read() + str(error))
        if first is None:
            raise
        raise FailedElsewhere(first) from error


def first_error_in(text: str) -> str | None:
    """The last line of the first traceback in a text that is no consequence of another; None if there is none."""
    for error in LAST_OF_TRACEBACK.findall(RANK_PREFIX.sub("", text)):
        if not any(consequence in error for consequence in CONSEQUENCES):
            return str(error)
    return None
