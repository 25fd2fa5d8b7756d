from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import fsspec
import pytest
import pytorch_lightning as pl
import torch
from several_ranks import run_in_threads

from patches.runtime import compat, saving
from patches.runtime.ranks import RankGroup

TWO_AND_THREE = pytest.mark.parametrize("world_size", [2, 3])
FILES = {"alias.pkl": b"alias", "model_0.ckpt": b"weights"}
Save = Callable[..., bool]


class Forecaster:
    """Saves as NeuralForecast does: by the hook, or else itself."""

    def __init__(self, group: Optional[RankGroup], files: dict[str, bytes], save: Save) -> None:
        self.group, self.files, self.save_by_hook = group, files, save
        self.calls: list[tuple[Any, bool]] = []

    def save(self, path: str, model_index: Any = None, save_dataset: bool = True, overwrite: bool = False) -> None:
        if self.save_by_hook(self, path, model_index, save_dataset, overwrite, group=self.group):
            return
        self.calls.append((model_index, save_dataset))
        os.makedirs(path, exist_ok=True)
        for name, content in self.files.items():
            with saving.open_atomic(f"{path}/{name}", group=self.group) as file:
                file.write(content)


def forecaster(group: Optional[RankGroup], save: Save = saving.save_from_all_ranks) -> Forecaster:
    return Forecaster(group, FILES, save)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@TWO_AND_THREE
def test_every_rank_has_the_whole_model_after_its_own_save(world_size: int, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"

    def run(group: RankGroup) -> Any:
        own = forecaster(group)
        own.save(str(folder), [0], False)
        return own.calls, {name: (folder / name).read_bytes() for name in FILES}

    assert run_in_threads(world_size, run) == [([([0], False)], FILES)] * world_size
    assert content(folder) == FILES


def test_ranks_may_save_at_different_times_or_not_at_all(tmp_path: Path) -> None:
    has_saved = threading.Event()

    def run(group: RankGroup) -> Any:
        if group.rank == 1:
            has_saved.wait()
        if group.rank < 2:
            forecaster(group).save(str(tmp_path / "model"))
            has_saved.set()
        return group.rank

    assert run_in_threads(3, run) == [0, 1, 2]
    assert content(tmp_path / "model") == FILES


@TWO_AND_THREE
def test_a_folder_with_files_is_refused_on_all_ranks(world_size: int, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    for error in run_in_threads(world_size, lambda group: forecaster(group).save(str(tmp_path))):
        assert "Directory is not empty. Set `overwrite=True`" in str(error)
    assert content(tmp_path) == {"other": b""}


@TWO_AND_THREE
def test_overwriting_removes_what_an_older_save_has_left(world_size: int, tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("")
    (tmp_path / "model_0.ckpt").write_text("old weights")
    other_rank = tmp_path / f"{saving.TMP_PREFIX}of-another-rank"
    other_rank.mkdir()
    run_in_threads(world_size, lambda group: forecaster(group).save(str(tmp_path), overwrite=True))
    other_rank.rmdir()
    assert content(tmp_path) == FILES


def test_every_save_into_a_folder_is_a_call_of_its_own(tmp_path: Path) -> None:
    def run(group: RankGroup) -> Any:
        forecaster(group).save(str(tmp_path / "model"))
        barrier.wait()
        forecaster(group).save(str(tmp_path / "model"), overwrite=True)
        barrier.wait()
        forecaster(group).save(str(tmp_path / "model"))

    barrier = threading.Barrier(2)
    assert ["Directory is not empty" in str(error) for error in run_in_threads(2, run)] == [True, True]
    assert content(tmp_path / "model") == FILES


def test_releases_up_to_1_7_0_leave_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s3:" / "bucket"  # these releases take it for a path of this machine
    folder.mkdir(parents=True)
    (folder / "other").write_text("")
    run_in_threads(2, lambda group: forecaster(group, saving.save_local_files).save("s3://bucket", overwrite=True))
    assert content(folder) == {**FILES, "other": b""}


def test_files_are_put_where_fsspec_says() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/model/old", b"")
    run_in_threads(2, lambda group: forecaster(group).save("memory://model", overwrite=True))
    assert {path.rsplit("/", 1)[-1]: memory.cat(path) for path in memory.ls("/model", detail=False)} == FILES
    memory.rm("/model", recursive=True)


class Gone:
    """The store of a process that has ended."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("Connection reset by peer")


@pytest.mark.parametrize("overwrite", [False, True])
def test_after_the_end_of_the_process_that_holds_the_store(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def next_call(group: RankGroup, name: str) -> RankGroup:
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(RankGroup, "next_call", next_call)
    group = RankGroup(1, 2, Gone())
    forecaster(group).save(str(tmp_path / "model"), overwrite=overwrite)
    assert content(tmp_path / "model") == FILES
    Forecaster(group, {"alias.pkl": b"new"}, saving.save_from_all_ranks).save(
        str(tmp_path / "model"), None, True, overwrite
    )
    assert content(tmp_path / "model") == ({"alias.pkl": b"new"} if overwrite else FILES)


def test_one_process_saves_itself(tmp_path: Path) -> None:
    assert saving.save_from_all_ranks(None, str(tmp_path), None, True, False) is False
    assert saving.save_local_files(None, str(tmp_path), None, True, False) is False
    with saving.open_atomic(tmp_path / "file") as file:
        file.write(b"content")
        assert content(tmp_path).keys() == {"file"}
    assert content(tmp_path) == {"file": b"content"}


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    group = RankGroup(1, 2, None)
    (tmp_path / "file").write_bytes(b"old")
    with suppress(ZeroDivisionError), saving.open_atomic(tmp_path / "file", group=group) as file:
        file.write(b"half of")
        raise ZeroDivisionError
    assert content(tmp_path) == {"file": b"old"}
    with saving.open_atomic(tmp_path / "file", group=group) as file:
        file.write(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
    assert content(tmp_path) == {"file": b"new"}
    with saving.open_atomic("memory://file", group=group) as file:
        file.write(b"there")
    assert fsspec.filesystem("memory").cat("/file") == b"there"


class Model(pl.LightningModule):
    def __init__(self, devices: int) -> None:
        super().__init__()
        self.trainer_kwargs = {"devices": devices}
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def trained_model(devices: int = 2) -> Model:
    model = Model(devices)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(1, 1)))
    return model


def weights_in(path: Path) -> Any:
    return torch.load(path, weights_only=False)["state_dict"]["layer.weight"]


@TWO_AND_THREE
def test_every_rank_writes_lightnings_checkpoint(world_size: int, tmp_path: Path) -> None:
    model, path = trained_model(), tmp_path / "model.ckpt"

    def run(group: RankGroup) -> Any:
        saving.save_checkpoint(model, str(path), group=group)
        return torch.equal(weights_in(path), model.layer.weight)

    assert run_in_threads(world_size, run) == [True] * world_size
    assert list(tmp_path.iterdir()) == [path]


def test_one_process_leaves_the_checkpoint_to_lightning(tmp_path: Path) -> None:
    model = trained_model()
    saving.save_checkpoint(model, str(tmp_path / "model.ckpt"))
    assert torch.equal(weights_in(tmp_path / "model.ckpt"), model.layer.weight)
    saved = []
    model._trainer = SimpleNamespace(save_checkpoint=saved.append)  # type: ignore[assignment]
    saving.save_checkpoint(model, "s3://bucket/model.ckpt", group=RankGroup(1, 2, None))
    assert saved == ["s3://bucket/model.ckpt"]


def test_a_model_whose_processes_have_ended_is_saved_by_a_trainer_of_its_own(tmp_path: Path) -> None:
    model = Model(devices=2)
    assert compat.attached_trainer(model) is None
    saving.save_checkpoint(model, str(tmp_path / "model.ckpt"))
    assert torch.equal(weights_in(tmp_path / "model.ckpt"), model.layer.weight)
    with pytest.raises(RuntimeError, match="not attached"):
        saving.save_checkpoint(Model(devices=1), str(tmp_path / "untrained.ckpt"))
