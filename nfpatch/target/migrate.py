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
from .talk import (
    AllJudged,
    Done,
    Failed,
    Imported,
    Judged,
    MigrateSpec,
    NotImported,
    Verdict,
    Written,
    line_of,
    record_in,
)


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


def main() -> None:
    """Judges all files, then writes those again that are asked for."""
    base_path = list(sys.path)
    end_with_parent()
    outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to standard error

    def send(record: Any) -> None:
        outgoing.write(line_of(record))
        outgoing.flush()

    def import_tree(tree: str | None) -> Any:
        return import_neuralforecast(tree, base_path)

    spec: MigrateSpec = record_in(sys.stdin.readline())
    try:
        package = import_tree(spec.installed)
    except Exception as error:
        send(NotImported(in_short(error)))
        return
    send(Imported(package.__file__))
    verdicts = judge_all(spec, import_tree)
    for number, verdict in enumerate(verdicts):
        send(Judged(number, verdict))
    send(AllJudged())
    for line in iter(sys.stdin.readline, ""):
        for new in record_in(line).files:
            try:
                write_again(spec.files[new.file], verdicts[new.file], new.path, spec.trust)
                send(Written(new.file))
            except Exception as error:
                words = str(error) if isinstance(error, Refusal) else in_short(error)
                send(Failed(new.file, words, getattr(error, "errno", None)))
        send(Done())
