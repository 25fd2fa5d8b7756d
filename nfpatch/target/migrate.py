"""Makes saved models fit the installed neuralforecast: `python ENTRY migrate`, spoken to as `talk.py` has it."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from typing import Any, Callable

from .process import end_with_parent
from .saved.fitting import missing_weights
from .saved.judging import check_unused, judge
from .saved.refusals import Refusal, in_short
from .saved.writing import write_again
from .source import import_neuralforecast
from .talk import Imported, Judged, MigrateSpec, Verdict, WriteFiles, Written, line_of, record_in


def verdict_by(work: Callable[[], Verdict]) -> Verdict:
    """What `work` finds out about a file, or why it is refused."""
    try:
        return work()
    except Refusal as refusal:
        return Verdict("refused", detail=str(refusal), cause=refusal.cause)
    except OSError as error:
        return Verdict("refused", detail=f"cannot be read: {error.strerror or error}", cause="environment")
    except MemoryError:
        return Verdict("refused", detail="does not fit into the memory", cause="environment")


def judge_all(spec: MigrateSpec, import_tree: Callable[[str | None], Any]) -> list[Verdict]:
    """The verdict on each file. The installed source is imported before and after."""
    verdicts = [verdict_by(functools.partial(judge, file, spec)) for file in spec.files]
    growing = [number for number, verdict in enumerate(verdicts) if verdict.added]
    if growing and spec.patched is not None:
        import_tree(spec.patched)
        for number in growing:
            verdict = verdicts[number]
            confirmed = verdict_by(functools.partial(check_unused, spec.files[number], verdict, spec.trust))
            verdicts[number] = replace(confirmed, model=verdict.model)
        import_tree(spec.installed)
    else:
        for number in growing:
            model, added = verdicts[number].model, verdicts[number].added
            verdicts[number] = Verdict("refused", model, detail=missing_weights(model, added), cause="content")
    return verdicts


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
