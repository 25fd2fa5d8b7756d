"""The processes of a run in the target interpreter: starts them, follows them, and leaves none running."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Optional, TypeVar

from nfpatch.errors import InstallEnvironmentError, UsageError

T = TypeVar("T")

# Every process of a launch has it in its environment, with the id of the launch as its value.
TOKEN_VARIABLE = "NFPATCH_PROOF"
# Seconds that torch's launcher gets to stop its workers by itself.
GRACE = 2.0
# Seconds after which processes that cannot be killed (uninterruptible sleep in a driver) are given up.
GIVE_UP = 10.0
# Seconds between two reads of what the processes have written.
_POLL_INTERVAL = 0.05
# Seconds that a process gets to print its stack.
_ANSWER_TIME = 0.5
# A disk with fewer free bytes is full.
_LEAST_SPACE = 65536
# What a surrounding training job or launcher would pass to our own launch: torch's ranks and rendezvous, defaults for
# the options of `torch.distributed.run` (PET_*) and of Lightning's trainer (PL_*), the level of the launcher's log, the
# jobs in which Lightning would look for its ranks (SLURM, LSF, MPI), the Spark of a notebook, and the rehearsal of a
# script that itself starts nfpatch.
_FOREIGN_VARIABLES = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|NODE_RANK|ROLE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|LOGLEVEL"
    r"|NFPATCH_REHEARS.*|PET_.*|PL_.*|TORCHELASTIC_.*|SLURM_.*|JSM_.*|LSB_.*|OMPI_.*|PMI_.*|SPARK_.*|PYSPARK_.*)"
)
# How torch's launcher reports the first worker that failed.
_FIRST_FAILURE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: (\d+)\)")


@dataclass(frozen=True)
class Nodes:
    """The machines that train together, as options of `torch.distributed.run`; each of them runs the same command."""

    nnodes: int = 1
    node_rank: int | None = None
    rdzv_backend: str | None = None
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    local_addr: str | None = None

    def check(self, devices: int) -> None:
        """Raises UsageError if these options contradict each other, with `devices` processes on each node."""
        rendezvous = (self.node_rank, self.rdzv_backend, self.rdzv_endpoint, self.rdzv_id, self.local_addr)
        if self.nnodes == 1 and any(option is not None for option in rendezvous):
            raise UsageError(
                "--node-rank, --rdzv-backend, --rdzv-endpoint, --rdzv-id and --local-addr are for several nodes. "
                "Add --nnodes, or leave them out."
            )
        if self.nnodes * devices < 2:
            raise UsageError(
                "Distributed training needs at least two processes. Set --devices to 2 or more; --devices 1 is for "
                "several nodes (--nnodes)."
            )
        if self.nnodes == 1:
            return
        if re.fullmatch(r".+:\d+", self.rdzv_endpoint or "") is None:
            raise UsageError(
                f"{self.nnodes} nodes need a rendezvous: --rdzv-endpoint HOST:PORT, the same on every node, with "
                "the address of one of them and a free port."
            )
        if self.rdzv_backend == "static" and self.node_rank is None:
            raise UsageError("--rdzv-backend static needs --node-rank: a different one on every node, and 0 on HOST.")
        if self.node_rank is not None and self.node_rank >= self.nnodes:
            raise UsageError(f"With {self.nnodes} nodes, --node-rank must be between 0 and {self.nnodes - 1}.")

    def launcher_options(self, token: str) -> list[str]:
        """The launcher's options; `token` is the id of the launch.

        For a single node they are what `--standalone` stands for in torch 2, spelled out because in torch 1.12 that
        means the fixed port 29400.
        """
        return [
            f"--nnodes={self.nnodes}",
            f"--rdzv_backend={self.rdzv_backend or 'c10d'}",
            f"--rdzv_endpoint={self.rdzv_endpoint or 'localhost:0'}",
            f"--rdzv_id={token if self.nnodes == 1 else self.rdzv_id or 'nfpatch'}",
            *([] if self.node_rank is None else [f"--node_rank={self.node_rank}"]),
        ]

    def environment(self) -> dict[str, str]:
        """The launcher's options that only some releases of torch know; the others ignore them in the environment."""
        # A single machine needs no name service.
        local_addr = "127.0.0.1" if self.nnodes == 1 else self.local_addr
        return {} if local_addr is None else {"PET_LOCAL_ADDR": local_addr}


ONE_NODE = Nodes()


def interpreter_environment(extra_path: Sequence[Path]) -> dict[str, str]:
    """The environment of the target interpreter: the user's, with `extra_path` first on the import path.

    Relative entries of PYTHONPATH are made absolute, as the processes run in another folder; empty entries, which
    mean the current folder, are dropped. Nothing is compiled into the user's site-packages.
    """
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {
        **{name: value for name, value in os.environ.items() if not _FOREIGN_VARIABLES.fullmatch(name)},
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in [*map(str, extra_path), *inherited]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def process_environment(extra_path: Sequence[Path], accelerator: str = "cpu") -> dict[str, str]:
    """The environment of processes that train."""
    environment = interpreter_environment(extra_path)
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["TORCH_DISTRIBUTED_DEBUG"] = "INFO"  # makes torch name the parameters that got no gradient
    if accelerator == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    else:
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # its sums are reproducible only with this
    return environment


def training_environment(extra_path: Sequence[Path], accelerator: str, temporary: Path) -> dict[str, str]:
    """The environment of nfpatch's own programs; their temporary files go into `temporary`."""
    return {
        **process_environment(extra_path, accelerator),
        "RAY_USAGE_STATS_ENABLED": "0",
        **dict.fromkeys(("TMPDIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"), str(temporary)),
    }


@dataclass(frozen=True)
class Program:
    """What runs in the interpreter `python`: a script, or a module, and its arguments.

    It runs in `folder`, and its output goes to the file `log`. With `devices`, torch's launcher starts that many
    processes on this node. Without, one process is started, as a user does, and makes the others itself.
    """

    python: Path
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    devices: int | None = None
    nodes: Nodes = ONE_NODE

    def command(self, token: str) -> list[str]:
        """The command line; `token` is the id of the launch."""
        launcher = [] if self.devices is None else [
            "-m", "torch.distributed.run", *self.nodes.launcher_options(token), f"--nproc_per_node={self.devices}",
            "--max_restarts=0", "--monitor_interval=0.1",  # seconds; older releases take five
        ]  # fmt: skip
        return [str(self.python), *launcher, *self.arguments]


@dataclass(frozen=True)
class Launch:
    """A running program. `process` is torch's launcher, whose workers have their own sessions, or the first process."""

    process: subprocess.Popen[bytes]
    token: str
    log: Path

    def first_failure(self) -> list[int] | None:
        """Exit code, local rank and id of the worker of this node that failed first; None if torch logged no failure.

        A negative exit code is the number of the signal that killed it.
        """
        found = _FIRST_FAILURE.search(self.log.read_text(encoding="utf-8", errors="replace"))
        return None if found is None else [int(number) for number in found.groups()]

    def wait_until(self, look: Callable[[bool], Optional[T]]) -> T:
        """Calls `look` until it returns something.

        Its argument says whether the process has exited. That is checked before `look` reads what was written: a
        process that has exited has written everything.
        """
        while True:
            found = look(self.process.poll() is not None)
            if found is not None:
                return found
            time.sleep(_POLL_INTERVAL)

    def kill_workers(self, known_workers: Iterable[int]) -> None:
        """Kills all processes of the launch except the first, and returns when they are gone.

        On Linux the token finds them; elsewhere they are the `known_workers`, process ids.
        """
        known = set(known_workers)
        give_up = time.monotonic() + GIVE_UP
        while time.monotonic() < give_up:
            left = pids_with_token(self.token) if sys.platform == "linux" else set(filter(is_alive, known))
            left.discard(self.process.pid)
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def stop(self, known_workers: Iterable[int]) -> None:
        """Terminates the first process, which may stop the others itself, then kills all that are left."""
        for ending_signal in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, ending_signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(GRACE)
        self.kill_workers(known_workers)


@contextlib.contextmanager
def running(program: Program, workers: Callable[[], Iterable[int]]) -> Iterator[Launch]:
    """Starts a program. None of its processes is left afterwards; `workers` gives the ids of those known by then."""
    token = str(uuid.uuid4())
    with program.log.open("wb") as output:
        process = subprocess.Popen(
            program.command(token),
            env={**program.environment, **program.nodes.environment(), TOKEN_VARIABLE: token},
            cwd=program.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    launch = Launch(process, token, program.log)
    try:
        yield launch
    finally:
        launch.stop(workers())


def pids_with_token(token: str) -> set[int]:
    """The ids of this user's processes that were started with the token in their environment. Linux only."""
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    bearers = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                bearers.add(int(environ.parent.name))
    return bearers


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists and is ours."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def describe_exit(code: Optional[int]) -> str:
    """How a process exited, to follow its name in a sentence; None stands for one that is still running."""
    if code is None:
        return "did not exit"
    if code >= 0:
        return f"exited with code {code}"
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    return f"was killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")


@contextlib.contextmanager
def termination_as_exit() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into SystemExit, so that cleanup runs. Only in the main thread, if no handler is set."""

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    handled = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in handled:
            signal.signal(number, leave)
    except ValueError:  # not the main thread
        handled = []
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed afterwards, even after SIGTERM. A full disk raises InstallEnvironmentError."""
    with termination_as_exit():
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="nfpatch-run-")))
        try:
            yield folder
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full_disk() from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_disk_space(folder: Path) -> None:
    """Raises InstallEnvironmentError if the disk of this temporary folder is full."""
    if shutil.disk_usage(folder).free < _LEAST_SPACE:
        raise _full_disk()


def _full_disk() -> InstallEnvironmentError:
    return InstallEnvironmentError(
        f"The temporary folder {tempfile.gettempdir()} is full. Free some space, or set TMPDIR to a folder on another "
        "disk."
    )


def request_stacks(pids: Iterable[int]) -> None:
    """Makes these processes print their stacks, and waits until they have had time for it."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
    time.sleep(_ANSWER_TIME)
