"""Prevents hangs of forked training processes that use OpenMP threads.

`ddp_notebook` and `ddp_fork` train in processes that Lightning forks. A fork has the memory of its parent, but not
its threads: if the parent has used the thread pool of OpenMP, as torch does, the forked process hangs waiting for
threads that do not exist. With one thread it needs no pool.
"""

from __future__ import annotations

import os
from typing import Any, Callable

import torch

from . import compat


def limit_threads(trainer: Any) -> None:
    """Let each process that Lightning forks for this trainer compute with one thread.

    The threads of this process, and of other processes that it forks, are not changed. Makes no collective call.
    """
    launcher = compat.forking_launcher(trainer)
    if launcher is not None:
        launcher._wrapping_function = _SingleThreaded(launcher._wrapping_function)


class _SingleThreaded:
    """The function that Lightning calls in a forked process, after the process is limited to one thread."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        # Lightning sets the number of threads by the number of CPUs, unless this variable is set
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        return self._function(*arguments)
