"""The interpreter that `--python` names: its path, and its import path."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from nfpatch.errors import InstallEnvironmentError

INTERPRETER_TIMEOUT_SECONDS = 60

# Runs in the target interpreter, so it must be valid Python 3.7. `-c` puts "" (the working directory) first on the
# path; a training script does not have that entry.
_PATH_PROBE = "import json, sys; sys.stdout.write('\\n' + json.dumps([p for p in sys.path if p]))"


def interpreter_path(python: Path) -> Path:
    """The path of the interpreter if the file exists, else its name, which the system looks up on `PATH`.

    Links are not resolved: the link is what makes it the interpreter of a virtual environment.
    """
    expanded = Path(os.path.expanduser(python))  # unlike Path.expanduser, does not raise for an unknown user
    return expanded.absolute() if os.path.isfile(expanded) else expanded


def import_path_of(python: Path) -> list[Path]:
    """The import path of another interpreter, Python 3.7 or newer."""
    return [Path(entry).absolute() for entry in ask_interpreter(python, _PATH_PROBE)]


def ask_interpreter(python: Path, program: str, environment: Optional[Mapping[str, str]] = None) -> Any:
    """The JSON array or object that this program prints last in another interpreter."""
    advice = "Give the path of a Python interpreter, such as `bin/python` of the training environment."
    try:
        answer = subprocess.run(
            [str(interpreter_path(python)), "-B", "-c", program],  # -B: inspection must not write bytecode
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INTERPRETER_TIMEOUT_SECONDS,
            check=True,
        )
        found = json.loads(answer.stdout.splitlines()[-1])
        if isinstance(found, (list, dict)):
            return found
        raise ValueError(found)
    except subprocess.TimeoutExpired as error:
        raise InstallEnvironmentError(
            f"The interpreter {python} did not respond within {INTERPRETER_TIMEOUT_SECONDS} seconds. {advice}"
        ) from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InstallEnvironmentError(
            f"The interpreter {python} exited with code {error.returncode}{': ' + words[-1] if words else ''}. {advice}"
        ) from error
    except OSError as error:
        raise InstallEnvironmentError(f"Cannot run the interpreter {python}: {error.strerror}. {advice}") from error
    except (ValueError, IndexError) as error:
        raise InstallEnvironmentError(f"{python} is not a Python interpreter. {advice}") from error
