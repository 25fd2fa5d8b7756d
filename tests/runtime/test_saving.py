from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import fsspec
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from several_ranks import run_in_processes, run_in_threads

from patches.runtime import compat, saving
from patches.runtime.ranks import RankGroup

TWO_AND_THREE = pytest.mark.parametrize("world_size", [2, 3])
FILES = {"alias.pkl": b"alias", "model_0.ckpt": b"weights"}
Save = Callable[..., bool]


class Forecaster:
    """Saves as NeuralForecast does: with the hook, or else itself, which `calls` records."""

    def __init__(self, group: Optional[RankGroup], files: dict[str, bytes], save: Save, weight: float = 0.0) -> None:
        self.group, self.files, self.save_by_hook = group, files, save
        layer = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.zeros_(layer.bias)
        # HINT is not a module, and has one
        self.models: list[Any] = [SimpleNamespace(model=layer), torch.nn.BatchNorm1d(1)]
        names = np.array(["a", "b"], dtype=object)
        self.dataset = SimpleNamespace(temporal=torch.ones(2, 2), indptr=np.array([0, 1, 2]), names=names)
        self.calls: list[tuple[Any, bool]] = []

    def save(self, path: str, model_index: Any = None, save_dataset: bool = True, overwrite: bool = False) -> None:
        if self.save_by_hook(self, path, model_index, save_dataset, overwrite, group=self.group):
            return
        self.calls.append((model_index, save_dataset))
        os.makedirs(path, exist_ok=True)
        for name, content in self.files.items():
            with saving.open_atomic(f"{path}/{name}", group=self.group) as file:
                file.write(content)


def forecaster(group: Optional[RankGroup], save: Save = saving.save_from_all_ranks, weight: float = 0.0) -> Forecaster:
    return Forecaster(group, FILES, save, weight)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@TWO_AND_THREE
def test_every_rank_has_the_complete_model_after_its_own_save(world_size: int, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"

    def run(group: RankGroup) -> Any:
        own = forecaster(group)
        own.save(str(folder), [0], False)
        return own.calls, {name: (folder / name).read_bytes() for name in FILES}

    results = run_in_threads(world_size, run)
    assert sorted(calls for calls, _ in results) == [[]] * (world_size - 1) + [[([0], False)]]
    assert [files for _, files in results] == [FILES] * world_size
    assert content(folder) == FILES


class Waiting:
    """Counts the ranks that wait for a result."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranks, self.wait = threading.Semaphore(0), saving._wait
        monkeypatch.setattr(saving, "_wait", self)

    def __call__(self, group: RankGroup, counter: str) -> bool:
        if counter == saving.N_RESULTS:
            self.ranks.release()
        is_there = self.wait(group, counter)
        assert is_there, f"{counter} is not there at the deadline"
        return is_there


class Writer(Forecaster):
    """Writes when this number of other ranks are waiting; `write` is called instead of writing, if given."""

    def __init__(self, group: RankGroup, waiting: Waiting, n_waiting: int, write: Callable[[], None]) -> None:
        super().__init__(group, FILES, saving.save_from_all_ranks)
        self.waiting, self.n_waiting, self.write = waiting, n_waiting, write
        self.has_begun = threading.Event()

    def save(self, path: str, *arguments: Any, **options: Any) -> None:
        if os.path.basename(path).startswith(saving.TMP_PREFIX):
            self.has_begun.set()
            for _ in range(self.n_waiting):
                assert self.waiting.ranks.acquire(timeout=60)
            self.write()
        super().save(path, *arguments, **options)


def save_after_writer(
    world_size: int, folder: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]
) -> list[Any]:
    """The errors of the ranks, or how often each has written; rank 0 is first, and calls `write` while it writes."""
    writer = Writer(RankGroup(0, world_size, None), Waiting(monkeypatch), world_size - 1, write)

    def run(group: RankGroup) -> int:
        own: Forecaster = writer
        if group.rank == 0:
            writer.group = group
        else:
            own = forecaster(group)
            assert writer.has_begun.wait(60)
        own.save(str(folder))
        assert FILES.items() <= content(folder).items()
        return len(own.calls)

    return run_in_threads(world_size, run)


@TWO_AND_THREE
def test_later_ranks_wait_until_the_files_are_complete(
    world_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def look() -> None:
        names.extend(path.name for path in tmp_path.iterdir() if not path.name.startswith(saving.TMP_PREFIX))

    assert save_after_writer(world_size, tmp_path, monkeypatch, look) == [1] + [0] * (world_size - 1)
    assert names == []
    assert content(tmp_path) == FILES


@TWO_AND_THREE
@pytest.mark.parametrize("error", [OSError("No space left"), KeyboardInterrupt()], ids=["error", "interrupted"])
def test_if_a_rank_fails_the_next_one_writes(
    world_size: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    found, *others = save_after_writer(world_size, tmp_path, monkeypatch, fail)
    assert found is error
    assert sorted(others) == [0] * (world_size - 2) + [1]
    assert content(tmp_path) == FILES


def test_an_error_of_all_ranks_is_raised_on_all(tmp_path: Path) -> None:
    def run(group: RankGroup) -> None:
        own = forecaster(group)
        own.files = {"model_0.ckpt": None}  # type: ignore[dict-item]
        own.save(str(tmp_path / "model"))

    assert [type(error) for error in run_in_threads(3, run)] == [TypeError] * 3
    assert content(tmp_path / "model") == {}


def test_a_rank_that_is_killed_is_waited_for_until_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(saving, "_write_files", lambda *_: pytest.exit("killed"))
    monkeypatch.setattr(saving, "_publish_result", lambda *_: None)
    with suppress(pytest.exit.Exception):
        forecaster(RankGroup(0, 3, store)).save(str(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(saving, "DEADLINE", 0.01)
    second, third = forecaster(RankGroup(1, 3, store)), forecaster(RankGroup(2, 3, store))
    second.save(str(tmp_path))
    third.save(str(tmp_path))
    assert (len(second.calls), len(third.calls)) == (1, 0)
    assert content(tmp_path) == FILES


def test_a_rank_that_is_killed_before_it_published_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    store.add(f"neuralforecast/save/{tmp_path}/1/{saving.N_ARRIVED}", 1)
    monkeypatch.setattr(saving, "DEADLINE", 0.01)
    forecaster(RankGroup(1, 2, store)).save(str(tmp_path))
    assert content(tmp_path) == FILES


def saved_in_turn(
    folder: Path, *weights: float, before: Callable[[int], None] = lambda rank: None, n_ranks: int = 2
) -> list[int]:
    """How often each rank writes when they save one after another, each a model with its own weight."""
    store, written = dist.HashStore(), []
    for rank, weight in enumerate(weights):
        before(rank)
        own = forecaster(RankGroup(rank, n_ranks, store), weight=weight)
        own.save(str(folder), overwrite=True)
        written.append(len(own.calls))
    return written


def test_a_rank_that_has_another_model_writes_it(tmp_path: Path) -> None:
    assert saved_in_turn(tmp_path, 1.0, 1.0) == [1, 0]
    assert saved_in_turn(tmp_path, 1.0, 2.0) == [1, 1]


def test_a_rank_that_saved_by_itself_before_still_writes(tmp_path: Path) -> None:
    store = dist.HashStore()
    for weight in (1.0, 2.0):
        forecaster(RankGroup(0, 2, store), weight=weight).save(str(tmp_path), overwrite=True)
    other = forecaster(RankGroup(1, 2, store), weight=2.0)
    other.save(str(tmp_path), overwrite=True)
    assert len(other.calls) == 1


def test_each_node_has_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_node(rank: int) -> None:
        monkeypatch.setattr("socket.gethostname", lambda: f"node-{rank // 2}")

    assert saved_in_turn(tmp_path, 1.0, 1.0, 1.0, 1.0, before=start_node, n_ranks=4) == [1, 0, 1, 0]


def test_nodes_with_the_same_name_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_node(rank: int) -> None:
        boot_id = tmp_path / f"boot-{rank}"
        boot_id.write_text(f"{rank}\n")
        monkeypatch.setattr(saving, "BOOT_ID", boot_id)

    assert saved_in_turn(tmp_path / "model", 1.0, 1.0, before=start_node) == [1, 1]


def test_containers_of_one_node_have_disks_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def enter_container(rank: int) -> None:
        monkeypatch.setattr(saving, "BOOT_ID", tmp_path / "unreadable")
        if rank == 1:
            (tmp_path / "model").rename(tmp_path / "model-of-the-first")
            (tmp_path / "model").mkdir()
            for name in FILES:  # an older save on the disk of this container
                (tmp_path / "model" / name).write_bytes(b"old")

    assert saved_in_turn(tmp_path / "model", 1.0, 1.0, before=enter_container) == [1, 1]
    assert content(tmp_path / "model") == content(tmp_path / "model-of-the-first") == FILES


def test_files_that_a_rank_does_not_see_are_written_by_it(tmp_path: Path) -> None:
    def remove(rank: int) -> None:
        (tmp_path / "alias.pkl").unlink(missing_ok=True)

    assert saved_in_turn(tmp_path, 1.0, 1.0, 1.0, before=remove, n_ranks=3) == [1, 1, 1]


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
        assert "`overwrite=True`" in str(error)
    assert content(tmp_path) == {"other": b""}


@TWO_AND_THREE
def test_overwriting_removes_files_of_an_older_save(world_size: int, tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("")
    (tmp_path / "model_0.ckpt").write_text("old weights")
    other_rank = tmp_path / f"{saving.TMP_PREFIX}of-another-rank"
    other_rank.mkdir()
    run_in_threads(world_size, lambda group: forecaster(group).save(str(tmp_path), overwrite=True))
    other_rank.rmdir()
    assert content(tmp_path) == FILES


def test_every_save_into_a_folder_is_a_separate_call(tmp_path: Path) -> None:
    def run(group: RankGroup) -> Any:
        forecaster(group).save(str(tmp_path / "model"))
        barrier.wait()
        forecaster(group).save(str(tmp_path / "model"), overwrite=True)
        barrier.wait()
        forecaster(group).save(str(tmp_path / "model"))

    barrier = threading.Barrier(2)
    assert ["`overwrite=True`" in str(error) for error in run_in_threads(2, run)] == [True, True]
    assert content(tmp_path / "model") == FILES


def test_releases_up_to_1_7_0_leave_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s3:" / "bucket"  # these releases treat it as a local path
    folder.mkdir(parents=True)
    (folder / "other").write_text("")
    run_in_threads(2, lambda group: forecaster(group, saving.save_local_files).save("s3://bucket", overwrite=True))
    assert content(folder) == {**FILES, "other": b""}


def test_a_remote_folder_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = DirFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda path: (remote, path))
    assert saved_in_turn("model", 1.0, 1.0, 1.0, n_ranks=3) == [1, 0, 0]  # type: ignore[arg-type]
    assert content(tmp_path / "model") == FILES


def test_files_are_put_where_fsspec_says() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/model/old", b"")
    run_in_threads(2, lambda group: forecaster(group).save("memory://model", overwrite=True))
    assert {path.rsplit("/", 1)[-1]: memory.cat(path) for path in memory.ls("/model", detail=False)} == FILES
    memory.rm("/model", recursive=True)


def test_without_a_store_rank_0_saves_as_upstream_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not saving.is_left_to_rank_0()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    for rank in (0, 1):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        assert saving.is_left_to_rank_0() == (rank == 1)
        assert saving.save_from_all_ranks(None, str(tmp_path), None, True, False) is False
    assert saving.save_from_all_ranks(None, str(tmp_path), None, True, False, group=RankGroup(1, 2, None)) is False


def save_in_process(folder: str) -> object:
    assert not saving.is_left_to_rank_0()
    own = forecaster(None)
    own.save(folder)
    return len(own.calls), content(Path(folder))


def test_two_processes_write_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    results = run_in_processes(2, save_in_process, tmp_path / "store", str(tmp_path / "model"))
    assert sorted(calls for calls, _ in results) == [0, 1]
    assert [files for _, files in results] == [FILES, FILES]


class Gone:
    """The store of a process that has exited."""

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


def test_if_the_store_ends_meanwhile_a_rank_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(group: RankGroup, counter: str) -> bool:
        if counter == saving.N_RESULTS:
            raise RuntimeError("Connection reset by peer")
        return True

    monkeypatch.setattr(saving, "_wait", wait)
    assert saved_in_turn(tmp_path, 1.0, 1.0) == [1, 1]
    assert content(tmp_path) == FILES


def test_one_process_saves_itself(tmp_path: Path) -> None:
    assert saving.save_from_all_ranks(None, str(tmp_path), None, True, False) is False
    assert saving.save_local_files(None, str(tmp_path), None, True, False) is False
    with saving.open_atomic(tmp_path / "file") as file:
        file.write(b"content")
        assert content(tmp_path).keys() == {"file"}
    assert content(tmp_path) == {"file": b"content"}


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
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


def test_a_model_whose_processes_have_ended_is_saved_by_a_new_trainer(tmp_path: Path) -> None:
    model = Model(devices=2)
    assert compat.attached_trainer(model) is None
    saving.save_checkpoint(model, str(tmp_path / "model.ckpt"))
    assert torch.equal(weights_in(tmp_path / "model.ckpt"), model.layer.weight)
    with pytest.raises(RuntimeError, match="not attached"):
        saving.save_checkpoint(Model(devices=1), str(tmp_path / "untrained.ckpt"))
