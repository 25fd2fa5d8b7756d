"""Windows, where every command exits with 4, simulated in a real process.

No Windows was available. The process has none of the modules that Windows lacks, and its platform changes after nfpatch
is imported, because Python's own modules would need a real Windows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import COMMANDS, environment, snapshot

LIKE_WINDOWS = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
import shutil  # imports modules of Windows, from Python 3.13 on
import nfpatch.cli
sys.platform = "win32"
"""


@pytest.fixture
def windows(tmp_path: Path) -> dict[str, str]:
    """The environment variables of a Python that simulates Windows."""
    folder = tmp_path / "windows"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LIKE_WINDOWS)
    return environment(folder)


def run(variables: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nfpatch", *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_exits_with_4(command: str, windows: dict[str, str], site: Path) -> None:
    needed = [__file__ for parameter in COMMANDS[command].params if parameter.required]
    where = [] if command == "list" else ["--site-packages", site]
    before = snapshot(site)
    refused = run(windows, command, *where, *needed)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "Windows" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert snapshot(site) == before
    document = json.loads(run(windows, command, *where, "--json", *needed).stdout)
    assert (document["exit_code"], document["error"]) == (4, refused.stderr.strip().partition(": ")[2])


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["apply", "--help"]])
def test_help_works(words: list[str], windows: dict[str, str]) -> None:
    assert run(windows, *words).returncode == 0


def test_on_another_platform_the_same_process_works(windows: dict[str, str], site: Path) -> None:
    Path(windows["PYTHONPATH"], "sitecustomize.py").write_text(LIKE_WINDOWS.replace("win32", "linux"))
    assert run(windows, "status", "--site-packages", site).returncode == 0
