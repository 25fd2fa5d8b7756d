"""Python imports this when it starts. It pretends GPUs in a process that is told how many, as ray's actors are."""

from __future__ import annotations

import importlib
import os

if "NFPATCH_PRETENDED_GPUS" in os.environ:
    importlib.import_module("pretended_gpus").pretend(int(os.environ["NFPATCH_PRETENDED_GPUS"]))
