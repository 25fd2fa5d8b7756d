import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def python37() -> Path:
    """A real Python 3.7, the oldest that the worker must run in; the test is skipped on a machine without one."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which("python3.7"), *versions.glob("3.7*/bin/python")]
    for python in filter(None, candidates):
        # pyenv's shims are there for every version, but run only the active one.
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return Path(python)
    pytest.skip("no Python 3.7 on this machine")
