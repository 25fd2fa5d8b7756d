from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(params=["this python", "python37"])
def python(request: pytest.FixtureRequest) -> Path:
    """An interpreter that has neither torch nor neuralforecast."""
    return request.getfixturevalue("python37") if request.param == "python37" else Path(sys.executable)
