"""Another interpreter than the one that runs nfpatch: where it is, and what it imports from."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from nfpatch.errors import EnvironmentProblem

INTERPRETER_TIMEOUT_SECONDS = 60

# Runs in the target interpreter, so it must stay valid Python 3.7. `-c` puts "" (the working folder) first on the
# path; a script that trains does not have that entry.
_PATH_PROBE = "import json, sys; sys.stdout.write('\\n' + json.dumps([p for p in sys.path if p]))"


def interpreter_path(python: Path) -> Path:
    """The interpreter as it can be run: the file of this name, else the name for the system to look up on `PATH`.

    Links are not followed: the link is what makes it a virtual environment's.
    """
    expanded = Path(os.path.expanduser(python))  # which, unlike Path.expanduser, puts up with an unknown user
    return expanded.absolute() if os.path.isfile(expanded) else expanded


def import_path_of(python: Path) -> list[Path]:
    """The import path of another interpreter, Python 3.7 or newer."""
    advice = "Give the path of a Python interpreter, such as the `bin/python` of the environment that trains."
    try:
        answer = subprocess.run(
            [str(interpreter_path(python)), "-B", "-c", _PATH_PROBE],  # -B: to look is not to write
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INTERPRETER_TIMEOUT_SECONDS,
            check=True,
        )
        entries = json.loads(answer.stdout.splitlines()[-1])
        return [Path(entry).absolute() for entry in entries]
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(
            f"The interpreter {python} gave no answer within {INTERPRETER_TIMEOUT_SECONDS} seconds. {advice}"
        ) from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise EnvironmentProblem(
            f"The interpreter {python} ended with exit code {error.returncode}"
            f"{': ' + words[-1] if words else ''}. {advice}"
        ) from error
    except OSError as error:
        raise EnvironmentProblem(f"The interpreter {python} cannot be run: {error.strerror}. {advice}") from error
    except (ValueError, TypeError, IndexError) as error:
        raise EnvironmentProblem(f"{python} does not answer as a Python interpreter does. {advice}") from error
