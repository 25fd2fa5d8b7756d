"""A training in forked processes does not use the threads of the process that was forked.

`ddp_notebook` and `ddp_fork` train in processes that Lightning forks. A fork has the memory of its parent, but none of
its threads: where the parent has used the thread pool of OpenMP, as torch does, the forked process hangs waiting for
threads that are not there. With one thread it needs no pool.
"""

from __future__ import annotations

import os
from typing import Any, Callable

import torch

from . import compat


def limit_threads(trainer: Any) -> None:
    """Let each process that Lightning forks for this trainer compute with one thread.

    Nothing else is changed: not the threads of this process, and not those of any other that it forks. Makes no
    collective call.
    """
    launcher = compat.forking_launcher(trainer)
    if launcher is not None:
        launcher._wrapping_function = _SingleThreaded(launcher._wrapping_function)


class _SingleThreaded:
    """What Lightning calls in a forked process, which is given one thread before that."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        # Lightning gives a process as many threads as the machine has for it, unless this variable is set
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        return self._function(*arguments)
