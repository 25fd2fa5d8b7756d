"""Lets the N-th file-system operation of a command be the last one, or fail.

The command runs in a forked process, so the kill is a real SIGKILL. Operations are seen by an audit hook (PEP 578); the
few that raise no audit event are wrapped. A kill comes before the operation, which is the same as after the one before.
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
# What needs room on the disk; renaming and removing do not.
ALLOCATING = {"open for writing", "os.link", "os.symlink", "os.mkdir", "write", "fsync", "os.truncate"}

# The same two files are rewritten in hundreds of forked commands: the parent's memory of the results saves minutes.
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
    """How a forked command ended: the exit code, negative for a signal, the operations it began, what it said."""

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
    """Call a function that returns an exit code and what it has to say in a forked process, as `run_forked` does."""
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
    """Let this operation fail; with `from_then_on` every later one that needs room on the disk fails as well."""

    def strike(number: int, kind: str) -> None:
        later = from_then_on and number > number_to_fail and kind in ALLOCATING
        if number == number_to_fail or later:
            raise OSError(errno, os.strerror(errno))

    return strike


def _call_in_child(action: Callable[[], tuple[int, str]], tree: Path, strike: Strike, report: int) -> None:
    raw_write = os.write
    state = {"number": 0, "busy": False}

    def saw(kind: str) -> None:
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
                saw("open for writing" if writes else event)
            except OSError as error:
                if event != "fcntl.flock":
                    error.filename = os.fsdecode(details[0])  # as the system call itself would name it
                raise

    for name in UNAUDITED:
        setattr(os, name, _announced(getattr(os, name), name, report, saw))
    sys.addaudithook(audit)
    try:
        code, words = action()
    except BaseException as error:  # never back into the parent's tests
        code, words = 1, repr(error)
    state["busy"] = True
    raw_write(report, b"\0" + words.encode())
    os._exit(code)


def _announced(function: Callable[..., Any], name: str, report: int, saw: Callable[[str], None]) -> Callable[..., Any]:
    def announced(descriptor: Any, *rest: Any) -> Any:
        if isinstance(descriptor, int) and descriptor > 2 and descriptor != report:
            saw(name)
        return function(descriptor, *rest)

    return announced


def _concerns(tree: Path, details: tuple[Any, ...]) -> bool:
    texts = [os.fsdecode(d) for d in details if isinstance(d, (str, bytes, os.PathLike))]
    return any(text.startswith(str(tree)) for text in texts)
