"""What the target interpreter has to train with, found out without importing it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfpatch.engine.launch import interpreter_environment
from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.interpreter import interpreter_path

OLDEST_PYTHON = (3, 7)
# Seconds; the answer takes a fraction of one, except from cold network file systems.
_PROBE_TIMEOUT = 60.0

# Runs in the target interpreter, whatever its version. Folders of `*.dist-info` stand in for `importlib.metadata`,
# which Python 3.7 lacks.
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
    """The versions that are installed for an interpreter, and the folder in which it finds `neuralforecast/`.

    pyspark and fugue, by which neuralforecast trains and predicts on Spark, may be missing.
    """

    python: str
    torch: str
    lightning: str
    neuralforecast: Path | None
    pyspark: str | None = None
    fugue: str | None = None

    @property
    def versions(self) -> dict[str, str]:
        """What a report says of it."""
        return {"torch": self.torch, "Lightning": self.lightning, "Python": self.python}

    def __str__(self) -> str:
        """The same in words."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def versions_in_json(stack: Stack | None) -> dict[str, object]:
    """The versions for a JSON document; None where nothing ran."""
    names = ("torch", "lightning", "python")
    return {name: None if stack is None else getattr(stack, name) for name in names}


def probe(python: Path, extra_path: Sequence[Path] = ()) -> Stack:
    """What `python` has to train with, `extra_path` being first on its path. Imports neither torch nor Lightning.

    Raises InstallEnvironmentError where the interpreter cannot run, is too old, or lacks torch or Lightning.
    """
    answer = _answer(python, extra_path)
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


def _answer(python: Path, extra_path: Sequence[Path]) -> dict[str, Any]:
    """What the probe prints in the interpreter."""
    try:
        done = subprocess.run(
            [str(runnable(python)), "-c", _PROBE],
            env=interpreter_environment(extra_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT,
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        reason = f"it did not answer within {_PROBE_TIMEOUT:g} s"
    except OSError as error:
        reason = error.strerror or str(error)
    except (IndexError, ValueError):
        last_words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}, and no output"]
        reason = last_words[0]
    else:
        return answer
    raise InstallEnvironmentError(
        f"{python} cannot be run as a Python interpreter: {reason}. Name a working one with --python."
    )


def runnable(python: Path) -> Path:
    """The interpreter as an absolute path, looked up on PATH where it is a bare name.

    Links are not followed: the link is what makes it a virtual environment's.
    """
    found = interpreter_path(python)
    return Path(os.path.abspath(shutil.which(found) or found))


def _dotted(version: Sequence[int]) -> str:
    """A version as text."""
    return ".".join(map(str, version))
