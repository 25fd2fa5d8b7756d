from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from several_ranks import run_in_processes, run_in_threads

from patches.runtime.ranks import (
    RankGroup,
    current_group,
    group_of_trainer,
    is_multi_process,
    to_picklable,
    with_zero_gradient,
)


def test_a_value_published_by_one_rank_is_received_by_all() -> None:
    def exchange(group: RankGroup) -> object:
        if group.rank == 1:
            group.publish("shape", {"of": (1, 2)})
        return group.receive("shape")

    assert run_in_threads(3, exchange) == [{"of": (1, 2)}] * 3


def test_the_same_key_below_two_prefixes_has_two_values() -> None:
    def exchange(group: RankGroup) -> object:
        for prefix in ("a", "b"):
            if group.rank == 0:
                group.prefixed(prefix).publish("key", prefix)
        return [group.prefixed(prefix).receive("key") for prefix in ("a", "b")]

    assert run_in_threads(2, exchange) == [["a", "b"]] * 2


def test_the_nth_call_of_each_rank_has_the_same_keys_whenever_it_is_made() -> None:
    def call(group: RankGroup) -> object:
        if group.rank == 0:  # all its calls before the first of rank 1
            for number in range(3):
                group.next_call("save").publish("number", number)
            group.publish("done", True)
            return [group.count_call("save"), group.count_call("load")]
        group.receive("done")
        return [group.next_call("save").receive("number") for _ in range(3)]

    assert run_in_threads(2, call) == [[4, 1], [0, 1, 2]]


def test_a_value_that_no_rank_publishes_raises_after_the_timeout_of_the_store() -> None:
    def wait(group: RankGroup) -> object:
        group.store.set_timeout(timedelta(milliseconds=1))
        return group.receive("nothing")

    (error,) = run_in_threads(1, wait)
    assert isinstance(error, RuntimeError)


def test_a_process_without_a_process_group_has_no_ranks() -> None:
    assert current_group() is None
    assert not is_multi_process()


def test_a_process_group_of_one_has_no_ranks() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert current_group() is None
        assert not is_multi_process()
    finally:
        dist.destroy_process_group()


def exchange_in_process() -> object:
    group = current_group()
    assert group is not None
    group.publish(f"from {group.rank}", group.rank)
    received = [group.receive(f"from {rank}") for rank in range(group.world_size)]
    parameter = torch.ones(1, requires_grad=True)
    with_zero_gradient(torch.ones(1, requires_grad=True), parameter).sum().backward()  # type: ignore[no-untyped-call]
    assert group_of_trainer(SimpleNamespace(world_size=1)) is None
    found = group_of_trainer(SimpleNamespace(world_size=2))
    assert found is not None
    return (group.rank, found.rank, group.world_size, is_multi_process(), received, parameter.grad.item())


def test_the_ranks_of_two_processes(tmp_path: Path) -> None:
    expected = [(rank, rank, 2, True, [0, 1], 0.0) for rank in range(2)]
    assert run_in_processes(2, exchange_in_process, tmp_path) == expected


def test_a_trainer_of_one_process_has_no_group() -> None:
    group = RankGroup(0, 2, dist.HashStore())
    assert group_of_trainer(SimpleNamespace(world_size=1), group) is None
    assert group_of_trainer(SimpleNamespace(world_size=2), group) is group
    assert group_of_trainer(SimpleNamespace(world_size=2)) is None


def test_one_process_uses_the_tensor_itself() -> None:
    tensor = torch.ones(1)
    assert with_zero_gradient(tensor, torch.ones(1, requires_grad=True)) is tensor


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("error", "type_", "text"),
    [
        (ValueError("no windows"), ValueError, "no windows"),
        (Unpicklable(1, 2), RuntimeError, "Unpicklable: 1 and 2"),
        (RuntimeError(lambda: None), RuntimeError, "RuntimeError: <function"),
    ],
)
def test_an_error_can_be_sent(error: Exception, type_: type, text: str) -> None:
    received = pickle.loads(pickle.dumps(to_picklable(error)))
    assert type(received) is type_
    assert str(received).startswith(text)
