"""Imports neuralforecast from a source tree; versions."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any


def import_neuralforecast(tree: str | None, base_path: list[str]) -> Any:
    """neuralforecast, imported again from `tree`, or if that is None, from `base_path`.

    torch, Lightning and ray stay imported, so that a further source costs less than a second.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "neuralforecast"]:
        del sys.modules[name]
    sys.path[:] = ([] if tree is None else [tree]) + base_path
    importlib.invalidate_caches()
    return importlib.import_module("neuralforecast")


def release() -> str:
    """The version of the imported neuralforecast."""
    return str(getattr(sys.modules["neuralforecast"], "__version__", "of this source"))


def numbers_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
