"""An ordinary script, started as `python script.py` by Lightning's own launcher: N processes give what one gives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import environment, invoke

HERE = Path(__file__).parent
SCRIPT = HERE / "ordinary.py"
TIMEOUT_SECONDS = 240

ONE = {"accelerator": "cpu", "devices": 1}
LAUNCHES: dict[str, dict[str, Any]] = {
    "two processes on the CPU": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"},
    "two pretended GPUs": {"accelerator": "gpu", "devices": 2, "strategy": "ddp"},
}


def run(site: Path, python: Path, out: Path, trainer: Mapping[str, Any]) -> tuple[int, list[Any], str]:
    """The exit code of the script, what each rank got, and what was printed."""
    out.mkdir()
    gpus = {"PRETENDED_GPUS": "1"} if trainer["accelerator"] == "gpu" else {}
    done = subprocess.run(
        [python, SCRIPT, out, json.dumps(trainer)],
        env={**environment(site, HERE), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **gpus},
        cwd=out,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    told = [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))]
    return done.returncode, told, done.stdout + done.stderr


@pytest.mark.ddp
@pytest.mark.parametrize("release", ["1.7.4", "3.3.0"])
def test_on_a_healed_install_each_rank_gets_what_one_process_gets(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    _, (before,), words = run(site, training_env, tmp_path / "released", ONE)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    code, told, words = run(site, training_env, tmp_path / "one", ONE)
    assert (code, told) == (0, [before]), f"one process gets what it got from the released source: {words}"
    for name, trainer in LAUNCHES.items():
        code, told, words = run(site, training_env, tmp_path / name.replace(" ", "-"), trainer)
        assert code == 0, f"{name}: {words[-3000:]}"
        assert told == [before, before], name


@pytest.mark.ddp
def test_on_the_released_install_it_does_not_end_well(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("1.7.4")
    code, told, words = run(site, training_env, tmp_path / "two", LAUNCHES["two processes on the CPU"])
    assert (code != 0, told) == (True, [])
    assert "could not broadcast input array from shape" in words
