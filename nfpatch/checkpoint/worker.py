"""The process that runs `target/migrate.py`, which reads and writes models in the target interpreter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from nfpatch.engine.launch import describe_exit, training_environment
from nfpatch.engine.probe import runnable
from nfpatch.errors import InstallEnvironmentError
from nfpatch.target import ENTRY
from nfpatch.target.messages import line_of, record_in

_LOG_LINES = 4

T = TypeVar("T")


class MigrationWorker:
    """The running process, with which records of `target/messages.py` are exchanged."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdin is not None, "the process was started with pipes"
        assert process.stdout is not None
        self._process, self._sending, self._receiving = process, process.stdin, process.stdout
        self._log = log

    def send(self, record: object) -> None:
        """Send a record. If the process has exited, `receive` raises the error."""
        with suppress(BrokenPipeError):
            self._sending.write(line_of(record))
            self._sending.flush()

    def receive(self, kind: type[T]) -> T:
        """The next record, which is of this kind. Raises InstallEnvironmentError if the process exits before."""
        line = self._receiving.readline()
        if line.endswith("\n"):
            return record_in(line, kind)
        raise InstallEnvironmentError(
            f"The interpreter that reads the models {describe_exit(self._process.wait())}. Nothing was changed. "
            f"The end of its output: {self._last_lines()}"
        )

    def _last_lines(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:]) or "none"


@contextmanager
def start_worker(python: Path, extra_path: Sequence[Path], folder: Path) -> Iterator[MigrationWorker]:
    """A process of the interpreter `python`, with `extra_path` first on its import path; killed at the end.

    `folder` is for its temporary files. Raises InstallEnvironmentError if the interpreter cannot be run.
    """
    log = folder / "migrate.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(runnable(python)), str(ENTRY), "migrate"],
            env=training_environment(extra_path, "cpu", folder),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            encoding="utf-8",
        )
    try:
        yield MigrationWorker(process, log)
    finally:
        process.kill()
        process.communicate()
