from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from patches.runtime import trajectories

TRAINED = {"train_trajectories": [(1, 0.1), (2, float("inf"))], "valid_trajectories": [(2, 0.3)]}


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def new_model() -> SimpleNamespace:
    return SimpleNamespace(train_trajectories=[(0, 9.0)], valid_trajectories=[], trainer=SimpleNamespace(local_rank=0))


def train(model: SimpleNamespace, local_rank: int) -> None:
    model.trainer.local_rank = local_rank
    vars(model).update(TRAINED)
    trajectories.write_from_launched_process(model)


def launch(model: SimpleNamespace) -> None:
    """Train as `ddp_notebook` does: two copies of the model, in processes that end."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train, args=(model, rank)) for rank in (1, 0)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def test_the_trajectories_of_launched_processes_are_copied_back(temporary_folder: Path) -> None:
    model = new_model()
    with trajectories.kept_after_spawn(model):
        launch(model)
    assert {name: getattr(model, name) for name in TRAINED} == TRAINED
    assert all(type(step) is tuple for step in model.train_trajectories)
    assert set(vars(model)) == {*TRAINED, "trainer"}
    assert not list(temporary_folder.iterdir())


def test_a_process_without_a_launcher_writes_and_reads_nothing(
    temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: pytest.fail("no temporary folder is needed"))
    model = new_model()
    with trajectories.kept_after_spawn(model):
        model.train_trajectories.append((1, 0.5))
        trajectories.write_from_launched_process(model)
    assert model.train_trajectories == [(0, 9.0), (1, 0.5)]
    assert not list(temporary_folder.iterdir())


def test_a_launched_process_writes_only_for_the_training_that_launched_it(
    temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, own = new_model(), os.getpid()
    with trajectories.kept_after_spawn(model):
        monkeypatch.setattr(os, "getpid", lambda: own + 1)
        model.trainer.local_rank = 1
        trajectories.write_from_launched_process(model)
        assert not list(temporary_folder.iterdir())
        model.trainer.local_rank = 0
        trajectories.write_from_launched_process(model)
        (file,) = temporary_folder.iterdir()
        assert json.loads(file.read_text()) == {"train_trajectories": [[0, 9.0]], "valid_trajectories": []}
        file.unlink()
    trajectories.write_from_launched_process(model)
    assert not list(temporary_folder.iterdir())


def test_a_failed_training_leaves_the_model_unchanged() -> None:
    model = new_model()
    before = dict(vars(model))
    with pytest.raises(RuntimeError), trajectories.kept_after_spawn(model):
        raise RuntimeError
    assert vars(model) == before


def test_a_training_that_leaves_no_file_changes_nothing() -> None:
    model = new_model()
    with trajectories.kept_after_spawn(model):
        pass
    assert model.train_trajectories == [(0, 9.0)]
