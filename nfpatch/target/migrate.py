"""Checks and rewrites saved models: `python ENTRY migrate`, which exchanges the records of `messages.py`."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from typing import Any, Callable

from .messages import FileCheck, FilesChecked, Imported, MigrateSpec, WriteFiles, Written, line_of, record_in
from .process import end_with_parent
from .saved import Refusal, one_line
from .saved.checking import check_file, confirm_unused, rewrite
from .source import import_neuralforecast


def check_all(spec: MigrateSpec, import_tree: Callable[[str | None], Any]) -> list[FileCheck]:
    """The result for each file. The installed source is imported before and after."""
    checks = [result_of(check_file, file, spec) for file in spec.files]
    patched = spec.patched if any(check.added for check in checks) else None
    if patched is not None:
        import_tree(patched)
    checks = [
        replace(result_of(confirm_unused, file, check, spec), model=check.model) if check.added else check
        for file, check in zip(spec.files, checks)
    ]
    if patched is not None:
        import_tree(spec.installed)
    return checks


def result_of(check: Callable[..., FileCheck], *arguments: Any) -> FileCheck:
    """The result of a check, or the reason why it refuses the file."""
    try:
        return check(*arguments)
    except Refusal as refusal:
        return FileCheck("refused", detail=str(refusal), cause=refusal.cause)
    except OSError as error:
        return FileCheck("refused", detail=f"cannot be read: {error.strerror or error}", cause="environment")
    except MemoryError:
        return FileCheck("refused", detail="does not fit into the memory", cause="environment")


def rewrite_all(request: WriteFiles, spec: MigrateSpec, checks: list[FileCheck]) -> Written:
    """Rewrites the files, up to the first that fails."""
    for number in request.files:
        try:
            path = os.path.join(request.folder, f"new-{number}")
            rewrite(spec.files[number], checks[number], path, spec.trust)
        except Exception as error:
            words = str(error) if isinstance(error, Refusal) else one_line(error)
            return Written(number, words, getattr(error, "errno", None))
    return Written()


def main() -> None:
    """Checks all files, then rewrites those that are requested."""
    end_with_parent()
    outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to standard error

    def send(record: Any) -> None:
        outgoing.write(line_of(record))
        outgoing.flush()

    spec = record_in(sys.stdin.readline(), MigrateSpec)
    import_tree = functools.partial(import_neuralforecast, base_path=list(sys.path))
    try:
        send(Imported(import_tree(spec.installed).__file__))
    except Exception as error:
        send(Imported(None, one_line(error)))
        return
    checks = check_all(spec, import_tree)
    send(FilesChecked(tuple(checks)))
    for line in iter(sys.stdin.readline, ""):
        send(rewrite_all(record_in(line, WriteFiles), spec, checks))
