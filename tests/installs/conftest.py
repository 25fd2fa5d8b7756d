from __future__ import annotations

from pathlib import Path

import pytest

from nfpatch.installs.find import Install, find_install


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """An install with a package of two files, the smallest that nfpatch accepts."""
    site = tmp_path / "site"
    contents = {
        "neuralforecast/__init__.py": "__version__ = '1.7.4'\n",
        "neuralforecast/models/tft.py": "class TFT: ...\n",
        "neuralforecast-1.7.4.dist-info/METADATA": "Name: neuralforecast\nVersion: 1.7.4\n",
        "neuralforecast-1.7.4.dist-info/RECORD": "neuralforecast/__init__.py,,\nneuralforecast/models/tft.py,,\n",
    }
    for name, content in contents.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return find_install(site_packages=site)
