"""Ranks for the tests of runtime modules: threads that share a store, or processes if a collective is called.

Used as `run_in_threads(2, function)`, where each thread calls `function(group)` with its own RankGroup.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from patches.runtime.ranks import RankGroup

TIMEOUT = timedelta(seconds=60)


def run_in_threads(world_size: int, function: Callable[[RankGroup], Any]) -> list[Any]:
    """The result or exception of `function` on each rank, where ranks are threads with one HashStore."""
    store = dist.HashStore()
    store.set_timeout(TIMEOUT)
    with ThreadPoolExecutor(world_size) as ranks:
        running = [ranks.submit(function, RankGroup(rank, world_size, store)) for rank in range(world_size)]
    return [each.exception() or each.result() for each in running]


def run_in_processes(world_size: int, function: Callable[..., Any], folder: Path, *arguments: object) -> list[Any]:
    """The result of `function(*arguments)` on each rank, where ranks are processes of one gloo process group.

    `function`, its arguments and its result are pickled; `folder` must be empty.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytorch_lightning"])  # imported once for all tests
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_run_rank, args=(rank, world_size, folder / "store", results, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    by_rank = dict(results.get() for _ in processes)
    for process in processes:
        process.join(TIMEOUT.total_seconds())
    return [by_rank[rank] for rank in range(world_size)]


def _run_rank(
    rank: int, world_size: int, store: Path, results: Any, function: Callable[..., Any], arguments: tuple[object, ...]
) -> None:
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=TIMEOUT
        )
        result = function(*arguments)
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    results.put((rank, result))
