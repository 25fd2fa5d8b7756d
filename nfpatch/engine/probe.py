"""The versions of what a target interpreter trains with, found without importing it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nfpatch.engine.launch import interpreter_environment
from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.interpreter import ask_interpreter, interpreter_path

OLDEST_PYTHON = (3, 7)
# Runs in the target interpreter, whatever its version. Python 3.7 has no `importlib.metadata`, only `*.dist-info`.
_PROBE = """
import glob, json, os, sys
sys.path[:] = [entry for entry in sys.path if entry]

def version_of(module, distribution, origin):
    try:
        from importlib.metadata import version
        return version(distribution)
    except Exception:
        folder = os.path.dirname(os.path.dirname(origin))
        found = glob.glob(os.path.join(folder, distribution.replace("-", "_") + "-*.dist-info"))
        return os.path.basename(found[0])[len(distribution) + 1:-len(".dist-info")] if found else "unknown"

answer = {"python": list(sys.version_info[:3])}
if sys.version_info >= (3, 7):
    from importlib.util import find_spec
    for module, distribution in (
        ("torch", "torch"), ("pytorch_lightning", "pytorch-lightning"), ("pyspark", "pyspark"), ("fugue", "fugue")
    ):
        spec = find_spec(module)
        found = spec is not None and spec.origin is not None
        answer[module] = version_of(module, distribution, spec.origin) if found else None
    spec = find_spec("neuralforecast")
    found = spec is not None and spec.origin is not None
    answer["neuralforecast"] = os.path.dirname(os.path.dirname(spec.origin)) if found else None
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Stack:
    """The versions in an interpreter's environment, and the folder in which it finds `neuralforecast/`.

    pyspark and fugue are only needed on Spark.
    """

    python: str
    torch: str
    lightning: str
    neuralforecast: Path | None
    pyspark: str | None = None
    fugue: str | None = None

    @property
    def versions(self) -> dict[str, str]:
        """The versions that reports show, by name."""
        return {"torch": self.torch, "Lightning": self.lightning, "Python": self.python}

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def versions_in_json(stack: Stack | None) -> dict[str, object]:
    """The versions for a JSON document; without a stack, None for each."""
    names = ("torch", "lightning", "python")
    return {name: None if stack is None else getattr(stack, name) for name in names}


def probe(python: Path, extra_path: Sequence[Path] = ()) -> Stack:
    """The stack of `python` with `extra_path` first on its import path; nothing of it is imported.

    Raises InstallEnvironmentError if the interpreter cannot run, is too old, or lacks torch or Lightning.
    """
    answer = ask_interpreter(python, _PROBE, interpreter_environment(extra_path))
    version = tuple(answer["python"])
    if version < OLDEST_PYTHON:
        raise InstallEnvironmentError(
            f"{python} is Python {_dotted(version)}, but training needs Python {_dotted(OLDEST_PYTHON)} or newer. "
            "Name another interpreter with --python."
        )
    missing = [
        distribution
        for module, distribution in (("torch", "torch"), ("pytorch_lightning", "pytorch-lightning"))
        if answer[module] is None
    ]
    if missing:
        raise InstallEnvironmentError(
            f"{python} has no {' and no '.join(missing)}, so it cannot train. "
            f"Install what neuralforecast needs (`{python} -m pip install {' '.join(missing)}`), "
            "or name another interpreter with --python."
        )
    neuralforecast = answer["neuralforecast"]
    return Stack(
        python=_dotted(version),
        torch=answer["torch"],
        lightning=answer["pytorch_lightning"],
        neuralforecast=None if neuralforecast is None else Path(neuralforecast),
        pyspark=answer["pyspark"],
        fugue=answer["fugue"],
    )


def runnable(python: Path) -> Path:
    """The absolute path of an interpreter, looked up on PATH if it is a bare name; links are not resolved."""
    found = interpreter_path(python)
    return Path(os.path.abspath(shutil.which(found) or found))


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
