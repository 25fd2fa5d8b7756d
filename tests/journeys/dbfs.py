"""Lists and reads the files of a fit on Spark through fsspec's file system of Databricks.

`python dbfs.py FOLDER`. What the file system asks Databricks for is answered from FOLDER, and what Spark would write
there pandas does: neither is at hand here. Prints how many rows of the files were read.
"""

import base64
import inspect
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pandas as pd
from fsspec.implementations.dbfs import DatabricksFileSystem
from neuralforecast import DistributedConfig, NeuralForecast
from neuralforecast.models import NHITS

FOLDER = sys.argv[1]


class Answered(DatabricksFileSystem):
    def __init__(self, **kwargs):
        super().__init__(instance="", token="", **kwargs)

    def _send_to_api(self, method, endpoint, json):
        path = os.path.join(FOLDER, json["path"].replace("dbfs:", "").strip("/"))
        if endpoint == "list":
            files = [path] if os.path.isfile(path) else [os.path.join(path, name) for name in os.listdir(path)]
            told = [
                {"path": file[len(FOLDER) :], "is_dir": os.path.isdir(file), "file_size": os.path.getsize(file)}
                for file in files
            ]
            return {"files": told}
        with open(path, "rb") as file:
            file.seek(json["offset"])
            data = file.read(json["length"])
        return {"bytes_read": len(data), "data": base64.b64encode(data).decode()}


class Frame:
    """What `fit` asks a frame of Spark's for."""

    columns = ("unique_id", "ds", "y")

    def repartitionByRange(self, number, column):
        return self

    @property
    def write(self):
        return SimpleNamespace(parquet=self.written)

    def written(self, path, mode):
        folder = os.path.join(FOLDER, path.replace("dbfs:", "").strip("/"))
        os.makedirs(folder)
        for number in range(2):
            frame = pd.DataFrame({"unique_id": number, "ds": pd.date_range("2020", periods=50), "y": 1.0})
            frame.to_parquet(os.path.join(folder, f"part-0000{number}-a.snappy.parquet"))
        Path(folder, "_SUCCESS").touch()

    def groupBy(self, column):
        first = SimpleNamespace(first=lambda: [50])
        return SimpleNamespace(count=lambda: SimpleNamespace(agg=lambda by: first))


fsspec.register_implementation("dbfs", Answered, clobber=True)
forecaster = NeuralForecast(models=[NHITS(h=2, input_size=4)], freq="D")
columns = {"id_col": "unique_id", "time_col": "ds", "target_col": "y"}
known = inspect.signature(forecaster._prepare_fit_distributed).parameters
config = DistributedConfig("dbfs:///partitions", num_nodes=1, devices=2)
sort = {"sort_df": True} if "sort_df" in known else {}
dataset = forecaster._prepare_fit_distributed(Frame(), None, distributed_config=config, **columns, **sort)
print(sum(len(pd.read_parquet(file)) for file in dataset.files), "rows")
