"""Makes saved models fit the installed neuralforecast: `python ENTRY migrate`, spoken to as `talk.py` has it."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from typing import Any, Callable

from .messages import Imported, Judged, MigrateSpec, Verdict, WriteFiles, Written, line_of, record_in
from .process import end_with_parent
from .saved import Refusal, in_short
from .saved.judging import check_unused, judge, write_again
from .source import import_neuralforecast


def judge_all(spec: MigrateSpec, import_tree: Callable[[str | None], Any]) -> list[Verdict]:
    """The verdict on each file. The installed source is imported before and after."""
    verdicts = [verdict_of(judge, file, spec) for file in spec.files]
    if any(verdict.added for verdict in verdicts):
        import_tree(spec.patched or spec.installed)
        verdicts = [
            replace(verdict_of(check_unused, file, verdict, spec), model=verdict.model) if verdict.added else verdict
            for file, verdict in zip(spec.files, verdicts)
        ]
        import_tree(spec.installed)
    return verdicts


def verdict_of(check: Callable[..., Verdict], *arguments: Any) -> Verdict:
    """What a check returns, or why it refuses the file."""
    try:
        return check(*arguments)
    except Refusal as refusal:
        return Verdict("refused", detail=str(refusal), cause=refusal.cause)
    except OSError as error:
        return Verdict("refused", detail=f"cannot be read: {error.strerror or error}", cause="environment")
    except MemoryError:
        return Verdict("refused", detail="does not fit into the memory", cause="environment")


def write_all(request: WriteFiles, spec: MigrateSpec, verdicts: list[Verdict]) -> Written:
    """Writes the files again, up to the first that fails."""
    for number in request.files:
        try:
            path = os.path.join(request.folder, f"new-{number}")
            write_again(spec.files[number], verdicts[number], path, spec.trust)
        except Exception as error:
            words = str(error) if isinstance(error, Refusal) else in_short(error)
            return Written(number, words, getattr(error, "errno", None))
    return Written()


def main() -> None:
    """Judges all files, then writes those again that are asked for."""
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
        send(Imported(None, in_short(error)))
        return
    verdicts = judge_all(spec, import_tree)
    send(Judged(tuple(verdicts)))
    for line in iter(sys.stdin.readline, ""):
        send(write_all(record_in(line, WriteFiles), spec, verdicts))
