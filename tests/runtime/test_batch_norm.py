from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from several_ranks import run_in_processes

from patches.runtime import batch_norm


def model_of_rank(rank: int, world_size: int) -> torch.nn.Module:
    """A model whose statistics and weights differ between ranks."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
    model.append(torch.nn.InstanceNorm1d(2, track_running_stats=True))
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(rank + 1)
    model.trainer = SimpleNamespace(world_size=world_size)  # type: ignore[assignment]
    return model


def values_of(model: torch.nn.Module) -> dict[str, int]:
    return {name: int(tensor.flatten()[0]) for name, tensor in model.state_dict().items()}


def broadcast_in_process(world_size_of_trainer: int) -> dict[str, int]:
    model = model_of_rank(dist.get_rank(), world_size_of_trainer)
    batch_norm.broadcast_statistics(model)
    return values_of(model)


def test_every_rank_has_the_statistics_of_rank_0(tmp_path: Path) -> None:
    of_ranks = run_in_processes(2, broadcast_in_process, tmp_path, 2)
    assert of_ranks[0] == values_of(model_of_rank(0, 2))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in of_ranks[1].items():
        is_broadcast = name.endswith(statistics) and not name.startswith("2")
        assert value == (1 if is_broadcast else 2), name


def test_a_trainer_of_one_process_broadcasts_nothing(tmp_path: Path) -> None:
    of_ranks = run_in_processes(2, broadcast_in_process, tmp_path, 1)
    assert of_ranks == [values_of(model_of_rank(rank, 1)) for rank in range(2)]


def test_the_buffers_are_broadcast_from_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sent = model_of_rank(0, 2), []
    monkeypatch.setattr(batch_norm, "group_of_trainer", lambda trainer: "the ranks")
    monkeypatch.setattr(dist, "broadcast", lambda tensor, source: sent.append((tensor, source)))
    batch_norm.broadcast_statistics(model)
    expected = [*model[0].buffers(), *model[1][0].buffers()]
    assert [id(tensor) for tensor, _ in sent] == [id(buffer) for buffer in expected]
    assert {source for _, source in sent} == {0}


def test_without_a_process_group_nothing_is_broadcast() -> None:
    batch_norm.broadcast_statistics(model_of_rank(0, 2))
