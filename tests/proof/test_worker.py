"""The worker runs in interpreters as old as Python 3.7, without nfpatch, and never outlives its launcher."""

from __future__ import annotations

import ast
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfpatch.proof.runner import WORKER
from nfpatch.proof.worker import assembled, backend_for, gpu_of

LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]], close_fds=False).wait()
"""
# Takes the place of the first heavy import. The pipe tells that the worker has got there, and, closed, that it is gone.
SLEEPING_LIGHTNING = """
import os, time
os.write(int(os.environ["TELL"]), b"!")
time.sleep(3600)
"""
# Seconds, for what takes a fraction of one.
PATIENCE = 60


def test_its_syntax_is_that_of_python_3_7() -> None:
    ast.parse(WORKER.read_text(), feature_version=(3, 7))


def test_python_3_7_itself_compiles_it(python37: Path) -> None:
    code = "import sys; compile(open(sys.argv[1], encoding='utf-8').read(), sys.argv[1], 'exec')"

    subprocess.run([python37, "-c", code, WORKER], check=True)


def test_it_imports_nothing_of_nfpatch() -> None:
    imported = set()
    for node in ast.walk(ast.parse(WORKER.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])

    assert "torch" in imported
    assert "nfpatch" not in imported


def test_on_gpus_the_backend_is_nccl_as_long_as_no_process_shares_one() -> None:
    def node(processes: int, gpus: int | None) -> dict[str, int | None]:
        return {"processes": processes, "gpus": gpus}

    assert backend_for("cpu", [node(2, None)]) == "gloo"
    assert backend_for("gpu", [node(2, 2)]) == "nccl"
    assert backend_for("gpu", [node(2, 8)]) == "nccl"
    assert backend_for("gpu", [node(2, 1)]) == "gloo"
    assert backend_for("gpu", [node(2, 2), node(2, 1)]) == "gloo"


def test_processes_get_a_gpu_each_and_then_take_turns() -> None:
    assert [gpu_of(rank, gpus=4) for rank in range(3)] == [0, 1, 2]
    assert [gpu_of(rank, gpus=1) for rank in range(2)] == [0, 0]
    assert [gpu_of(rank, gpus=2) for rank in range(5)] == [0, 1, 0, 1, 0]


def test_ranks_that_came_for_another_proof_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    spec = {"world_size": 2, "accelerator": "cpu", "cases": ["a"], "timeout": PATIENCE}

    class Meeting:
        """Two ranks, of which the other came with something else."""

        size = 2

        def __init__(self, **other: object) -> None:
            self.other = other

        def gather(self, own: dict[str, object], patience: float) -> list[object]:
            theirs = {**spec, **self.other}
            return [own, {**own, "proof": [theirs["world_size"], theirs["accelerator"], theirs["cases"]]}]

    assert len(assembled(Meeting(), spec, None)) == 2
    for other in ({"cases": ["b"]}, {"accelerator": "gpu"}, {"world_size": 4}):
        with pytest.raises(RuntimeError, match="rank 1 came for another proof: run the same command on every node"):
            assembled(Meeting(**other), spec, None)


@pytest.fixture(params=["this python", "python37"])
def python(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("python37") if request.param == "python37" else Path(sys.executable)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_inheritable(ends[1], True)
    yield ends
    os.close(ends[0])


def test_it_ends_when_its_launcher_is_killed(python: Path, pipe: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "pytorch_lightning.py").write_text(SLEEPING_LIGHTNING)
    specification = tmp_path / "spec.json"
    specification.write_text(json.dumps({"out": str(tmp_path), "timeout": PATIENCE, "cases": [], "trees": {}}))
    reading, writing = pipe
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    launcher = subprocess.Popen(
        [python, "-c", LAUNCHER, WORKER, specification],
        env={**os.environ, **ranks, "PYTHONPATH": str(tmp_path), "TELL": str(writing)},
        close_fds=False,
    )
    os.close(writing)
    try:
        assert select.select([reading], [], [], PATIENCE)[0], "the worker did not come to its imports"
        assert os.read(reading, 1) == b"!"
    finally:
        launcher.kill()
        launcher.wait()

    assert select.select([reading], [], [], PATIENCE)[0], "the worker outlived its launcher"
    assert os.read(reading, 1) == b""
    (greeting,) = map(json.loads, (tmp_path / "rank-0.jsonl").read_text().splitlines())
    assert greeting["event"] == "hello"
