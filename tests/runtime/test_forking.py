from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from patches.runtime import forking


def trainer_with(strategy: str, devices: int = 2) -> Any:
    return pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


def write_threads(folder: Path) -> None:
    """Write the number of threads of a launched process, and the variables that Lightning and torch read."""
    rank = os.environ["LOCAL_RANK"]
    found = [torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]]
    (folder / f"{rank}.json").write_text(json.dumps(found))


def send_threads(queue: Any) -> None:
    queue.put(torch.get_num_threads())


@pytest.fixture
def threads() -> Any:
    """Two threads of torch, whose pool has been started."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1000, 1000).sum()
    yield 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("variable", [None, "2"])
@pytest.mark.parametrize("devices", [1, 2])
def test_processes_that_lightning_forks_have_one_thread(
    devices: int, variable: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    trainer = trainer_with("ddp_fork", devices)
    forking.limit_threads(trainer)
    trainer.strategy.launcher.launch(write_threads, tmp_path)
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert found == [[1, variable or "1"]] * devices
    assert torch.get_num_threads() == threads, "of this process"
    assert os.environ.get("OMP_NUM_THREADS") == variable


def test_other_forks_keep_their_threads(threads: int) -> None:
    forking.limit_threads(trainer_with("ddp_fork"))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=send_threads, args=(queue,))
    process.start()
    assert queue.get() == threads
    process.join()

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, bytes([torch.get_num_threads()]))
        os._exit(0)
    assert os.read(read, 1) == bytes([threads])
    os.waitpid(child, 0)


@pytest.mark.parametrize(("strategy", "devices"), [("auto", 1), ("ddp", 2), ("ddp_spawn", 2)])
def test_nothing_is_changed_where_lightning_does_not_fork(strategy: str, devices: int) -> None:
    trainer = trainer_with(strategy, devices)
    launcher = trainer.strategy.launcher
    before = dict(vars(launcher)) if launcher is not None else {}
    forking.limit_threads(trainer)
    assert (dict(vars(launcher)) if launcher is not None else {}) == before


def test_a_lightning_without_forking_launchers_is_unchanged() -> None:
    forking.limit_threads(SimpleNamespace(strategy=SimpleNamespace()))


def test_the_called_function_gets_its_arguments_and_one_thread(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    launcher = SimpleNamespace(_start_method="fork", _wrapping_function=lambda *given: (torch.get_num_threads(), given))
    forking.limit_threads(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
    assert torch.get_num_threads() == threads
    assert launcher._wrapping_function(0, "a trainer") == (1, (0, "a trainer"))
