"""Makes fsspec take a local folder for Databricks' file system (DBFS), which Hadoop mounts for Spark.

It is fsspec's own class, whose requests to the API of Databricks are answered from the folder.
"""

from __future__ import annotations

import base64
import os
from typing import Any

# Names the folder
VARIABLE = "NFPATCH_PRETENDED_DBFS"


def _described(path: str, root: str) -> dict[str, Any]:
    return {"path": path[len(root) :], "is_dir": os.path.isdir(path), "file_size": os.path.getsize(path)}


def pretend(root: str) -> None:
    """Makes fsspec use the folder `root` as DBFS, in this process and in child processes that import this package."""
    import fsspec
    from fsspec.implementations.dbfs import DatabricksFileSystem

    class PretendedDbfs(DatabricksFileSystem):
        """The file system in the folder that VARIABLE names."""

        def __init__(self, **options: Any) -> None:
            super().__init__(instance="", token="", **options)

        def _send_to_api(self, method: str, endpoint: str, json: dict[str, Any]) -> dict[str, Any]:
            root = os.environ[VARIABLE]
            path = os.path.join(root, json["path"].replace("dbfs:", "").strip("/"))
            if endpoint == "list":
                paths = [path] if os.path.isfile(path) else [os.path.join(path, name) for name in os.listdir(path)]
                return {"files": [_described(each, root) for each in paths]}
            with open(path, "rb") as file:
                file.seek(json["offset"])
                data = file.read(json["length"])
            return {"bytes_read": len(data), "data": base64.b64encode(data).decode()}

    os.environ[VARIABLE] = root
    fsspec.register_implementation("dbfs", PretendedDbfs, clobber=True)
