"""The processes of a proof have their own environment, and SIGTERM does not orphan them."""

import os
import signal
from pathlib import Path
from typing import Optional

import pytest

from nfpatch.engine.launch import (
    describe_exit,
    interpreter_environment,
    termination_as_exit,
    training_environment,
)


def test_variables_of_a_surrounding_training_job_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "PET_NNODES", "PL_TRAINER_DEVICES", "TORCHELASTIC_X"]
    foreign += ["SPARK_HOME", "PYSPARK_GATEWAY_PORT", "NFPATCH_REHEARSED_RANK"]
    for name in foreign:
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SOMETHING_ELSE", "7")

    environment = interpreter_environment([])

    assert not set(foreign) & set(environment)
    assert environment["SOMETHING_ELSE"] == "7"


def test_relative_entries_of_the_import_path_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", str(tmp_path / "yours")]))

    path = interpreter_environment([Path("site")])["PYTHONPATH"].split(os.pathsep)

    assert path == [str(tmp_path / name) for name in ("site", "mine", "yours")]


def test_threads_are_those_of_the_user_and_cuda_depends_on_the_accelerator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert training_environment([], "cpu", tmp_path)["OMP_NUM_THREADS"] == "1"

    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert training_environment([], "cpu", tmp_path)["OMP_NUM_THREADS"] == "5"
    assert training_environment([], "cpu", tmp_path)["CUDA_VISIBLE_DEVICES"] == ""
    assert training_environment([], "gpu", tmp_path)["CUDA_VISIBLE_DEVICES"] == "3"


def test_sigterm_raises_within_the_block_and_is_restored_after_it() -> None:
    with pytest.raises(SystemExit) as leaving, termination_as_exit():
        signal.raise_signal(signal.SIGTERM)

    assert leaving.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "exited with code 3"),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-signal.SIGKILL, "was killed by SIGKILL (out of memory?)"),
        (-(signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1}"),
        (None, "did not exit"),
    ],
)
def test_an_exit_is_described_by_its_code_or_signal(code: Optional[int], words: str) -> None:
    assert describe_exit(code) == words
