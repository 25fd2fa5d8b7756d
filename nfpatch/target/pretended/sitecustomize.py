"""Python imports this module at its start. It pretends what the environment names: GPUs or DBFS."""

from __future__ import annotations

import importlib
import os

if "NFPATCH_PRETENDED_GPUS" in os.environ:
    importlib.import_module("pretended_gpus").pretend(int(os.environ["NFPATCH_PRETENDED_GPUS"]))
if "NFPATCH_PRETENDED_DBFS" in os.environ:
    importlib.import_module("pretended_dbfs").pretend(os.environ["NFPATCH_PRETENDED_DBFS"])
