"""List and read the files of a fit on Spark through fsspec's Databricks file system.

`python dbfs.py FOLDER`. Neither Databricks nor Spark is available here: requests to Databricks are answered from
FOLDER, and pandas writes the files that Spark would write. Prints the number of rows that were read.
"""

import inspect
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pretended_dbfs
from neuralforecast import DistributedConfig, NeuralForecast
from neuralforecast.models import NHITS

FOLDER = sys.argv[1]


class Frame:
    """The part of a Spark DataFrame that `fit` uses."""

    columns = ("unique_id", "ds", "y")

    def repartitionByRange(self, number, column):
        return self

    @property
    def write(self):
        return SimpleNamespace(parquet=self.written)

    def written(self, path, mode):
        folder = os.path.join(FOLDER, path.replace("dbfs:", "").strip("/"))
        os.makedirs(folder, exist_ok=True)
        for number in range(2):
            frame = pd.DataFrame({"unique_id": number, "ds": pd.date_range("2020", periods=50), "y": 1.0})
            frame.to_parquet(os.path.join(folder, f"part-0000{number}-a.snappy.parquet"))
        Path(folder, "_SUCCESS").touch()

    def groupBy(self, column):
        first = SimpleNamespace(first=lambda: [50])
        return SimpleNamespace(count=lambda: SimpleNamespace(agg=lambda by: first))


pretended_dbfs.pretend(FOLDER)
forecaster = NeuralForecast(models=[NHITS(h=2, input_size=4)], freq="D")
columns = {"id_col": "unique_id", "time_col": "ds", "target_col": "y"}
known = inspect.signature(forecaster._prepare_fit_distributed).parameters
config = DistributedConfig("dbfs:///partitions", num_nodes=1, devices=2)
sort = {"sort_df": True} if "sort_df" in known else {}
dataset = forecaster._prepare_fit_distributed(Frame(), None, distributed_config=config, **columns, **sort)
print(sum(len(pd.read_parquet(file)) for file in dataset.files), "rows")
