"""`nfpatch --help`, and completion by click."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import COMMANDS, invoke

NFPATCH = Path(sys.executable).with_name("nfpatch")


def answer_to(instruction: str, **variables: str) -> str:
    """The output of nfpatch for a shell that asks for completion."""
    wanted = {**os.environ, "_NFPATCH_COMPLETE": instruction, **variables}
    return subprocess.run([NFPATCH], env=wanted, capture_output=True, text=True, check=False).stdout


def completed(*words: str) -> set[str]:
    """The completions of the last of these words."""
    line = " ".join(["nfpatch", *words])
    lines = answer_to("bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words))).splitlines()
    return {line.partition(",")[2] for line in lines}


def test_commands_options_and_their_values_are_completed() -> None:
    assert completed("st") == {"status"}
    assert {"apply", "audit"} <= completed("a")
    assert completed("apply", "--dry") == {"--dry-run"}
    assert completed("verify", "--launcher", "sp") == {"spawn", "spark"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_nfpatch(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("requires bash, whose version click checks")
    script = answer_to(f"{shell}_source")
    assert f"_NFPATCH_COMPLETE={shell}_complete" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_with_the_script() -> None:
    if shutil.which("bash") is None:
        pytest.skip("requires bash")
    script = (
        'eval "$(_NFPATCH_COMPLETE=bash_source nfpatch)"\n'
        "COMP_WORDS=(nfpatch rev) COMP_CWORD=1\n"
        "_nfpatch_completion nfpatch; echo ${COMPREPLY[@]}\n"
    )
    path = os.pathsep.join([str(NFPATCH.parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["revert"], done.stderr


def test_help_groups_every_command() -> None:
    text = invoke("--help").stdout
    groups = re.findall(r"^(\w[\w ]*):\n((?:  \w.*\n(?:    .*\n)*)+)", text, re.MULTILINE)
    found = {heading: re.findall(r"^  (\w+)", block, re.MULTILINE) for heading, block in groups if heading != "Options"}
    assert list(found)[:4] == ["Inspect", "Patch", "Prove", "Saved models"]
    assert (found["Inspect"], found["Patch"], found["Saved models"]) == (
        ["list", "which", "status"],
        ["apply", "revert"],
        ["migrate"],
    )
    assert sorted(command for commands in found.values() for command in commands) == sorted(COMMANDS)
