"""Kill a command at its N-th file-system operation, or make that operation fail.

The command runs in a forked process, so the kill is a real SIGKILL. An audit hook (PEP 578) counts the operations; the
few that raise no audit event are wrapped. The kill happens before the operation.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import invoke

from nfpatch.codemod import Rewrite
from nfpatch.patching import rewriting
from nfpatch.patching.edits import Edit
from nfpatch.patching.source import SourceFile

AUDITED = {
    *("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"),
    *("os.utime", "os.truncate", "os.listdir", "os.scandir", "fcntl.flock"),
}
UNAUDITED = ("write", "fsync", "close")
# Operations that need disk space; renaming and removing do not.
ALLOCATING = {"open for writing", "os.link", "os.symlink", "os.mkdir", "write", "fsync", "os.truncate"}

# The same two files are rewritten in hundreds of forked commands; the cache in the parent saves minutes.
_edits_of = rewriting.edits_of
_edits: dict[tuple[object, ...], tuple[Edit, ...]] = {}


def remembered_edits(rewrite: Rewrite, source: SourceFile, fingerprinted: bool = False) -> tuple[Edit, ...]:
    """`rewriting.edits_of`, computed once for each source and codemod."""
    key = (rewrite.changes, rewrite.imports, source.content, fingerprinted)
    if key not in _edits:
        _edits[key] = _edits_of(rewrite, source, fingerprinted)
    return _edits[key]


Strike = Callable[[int, str], None]


@dataclass(frozen=True)
class Ended:
    """The exit code of a forked command (negative for a signal), the number of operations it began, and its stderr."""

    code: int
    operations: int
    stderr: str


def run_forked(arguments: Sequence[object], tree: Path, strike: Strike) -> Ended:
    """Run an nfpatch command in a forked process; `strike(number, kind)` is called before each operation on `tree`."""

    def command() -> tuple[int, str]:
        result = invoke(*arguments)
        return result.exit_code, result.stderr + (repr(result.exception) if result.exit_code == 1 else "")

    return call_forked(command, tree, strike)


def call_forked(action: Callable[[], tuple[int, str]], tree: Path, strike: Strike) -> Ended:
    """Call a function that returns an exit code and a message in a forked process, as `run_forked` does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _call_in_child(action, tree, strike, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    marks, _, stderr = report.partition(b"\0")
    return Ended(code, len(marks), stderr.decode())


def kill_at(last: int) -> Strike:
    """Kill the process before this operation, counted from 1."""

    def strike(number: int, kind: str) -> None:
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return strike


def fail_at(number_to_fail: int, errno: int, from_then_on: bool = False) -> Strike:
    """Make this operation fail; with `from_then_on` every later one that needs disk space fails as well."""

    def strike(number: int, kind: str) -> None:
        later = from_then_on and number > number_to_fail and kind in ALLOCATING
        if number == number_to_fail or later:
            raise OSError(errno, os.strerror(errno))

    return strike


def _call_in_child(action: Callable[[], tuple[int, str]], tree: Path, strike: Strike, report: int) -> None:
    raw_write = os.write
    state = {"number": 0, "busy": False}

    def count_operation(kind: str) -> None:
        if state["busy"]:
            return
        state["busy"] = True
        state["number"] += 1
        raw_write(report, b".")
        try:
            strike(state["number"], kind)
        finally:
            state["busy"] = False

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if event in AUDITED and (event == "fcntl.flock" or _concerns(tree, details)):
            writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
            try:
                count_operation("open for writing" if writes else event)
            except OSError as error:
                if event != "fcntl.flock":
                    error.filename = os.fsdecode(details[0])  # as the system call itself would name it
                raise

    for name in UNAUDITED:
        setattr(os, name, _counted(getattr(os, name), name, report, count_operation))
    sys.addaudithook(audit)
    try:
        code, message = action()
    except BaseException as error:  # must not continue the parent's tests
        code, message = 1, repr(error)
    state["busy"] = True
    raw_write(report, b"\0" + message.encode())
    os._exit(code)


def _counted(
    function: Callable[..., Any], name: str, report: int, count_operation: Callable[[str], None]
) -> Callable[..., Any]:
    def counted(descriptor: Any, *rest: Any) -> Any:
        if isinstance(descriptor, int) and descriptor > 2 and descriptor != report:
            count_operation(name)
        return function(descriptor, *rest)

    return counted


def _concerns(tree: Path, details: tuple[Any, ...]) -> bool:
    texts = [os.fsdecode(d) for d in details if isinstance(d, (str, bytes, os.PathLike))]
    return any(text.startswith(str(tree)) for text in texts)
