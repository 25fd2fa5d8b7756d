"""The process that runs `target/migrate.py`, which reads and writes models in the target interpreter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nfpatch.engine.launch import describe_exit, training_environment
from nfpatch.engine.probe import runnable
from nfpatch.errors import InstallEnvironmentError
from nfpatch.target import ENTRY
from nfpatch.target.talk import line_of, record_in

_LOG_LINES = 4


class MigrationWorker:
    """The running process. It receives requests and sends events, each a record of `target/talk.py`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def send(self, request: object) -> None:
        """Send a request. If the process has exited, `events` raises the error."""
        try:
            _open(self._process.stdin).write(line_of(request))
            _open(self._process.stdin).flush()
        except BrokenPipeError:
            pass

    def events(self, until: type[object]) -> Iterator[object]:
        """The events up to the one of the kind `until`, which is not included.

        Raises InstallEnvironmentError if the process exits before.
        """
        for line in _open(self._process.stdout):
            event = record_in(line)
            if isinstance(event, until):
                return
            yield event
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


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "the process was started with pipes"
    return pipe
