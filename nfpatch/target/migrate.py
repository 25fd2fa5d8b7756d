"""Makes saved models fit the installed neuralforecast: `python ENTRY migrate`, spoken to over the standard streams.

Each line, either way, is one JSON object. The first that comes in says what there is to do:

    files    [{path, claimed, suggested}]: a model file, the class that its folder or the user says it holds, and those
             that its name stands for; null and empty where nothing does
    dead     {class: patterns}: the names of the parameters, as `fnmatch` patterns, that patches take away
    trees    {installed, healed}: folders to put first on sys.path; null for neuralforecast as it is found, and for no
             healed source. The healed source is the installed one with all the patches that it still lacks
    trust    whether a pickle may run the code that it names

What goes out, `file` being the number of a file:

    {event: "imported", file} or {event: "not-imported", detail}
    {event: "judged", file, state, model, dropped, added, detail, cause}
             `state` is "already-fits", "misfit", which dropping and adding these keys mends, or "refused": `detail`
             says why, in words that follow the name of the file, and `cause` is "content", "code" for a pickle that
             wants to run some, or "environment"
    {event: "all-judged"}

Any number of {write: [[file, path], ...]} may come in then: files to be written anew, and the paths of the new ones.
Each is answered with one of these a file, and `done`:

    {event: "written", file} or {event: "failed", file, detail, errno}
    {event: "done"}
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Callable

from .process import end_with_parent
from .saved.fitting import missing_weights
from .saved.judging import check_dead, judge
from .saved.refusals import Refusal, in_short
from .saved.writing import write_anew
from .source import import_neuralforecast
from .talk import Talk


def reported(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds out about a file, or why it is refused."""
    nothing: dict[str, Any] = {"model": None, "dropped": [], "added": [], "detail": "", "cause": None}
    try:
        return dict(nothing, **work())
    except Refusal as refusal:
        return dict(nothing, state="refused", detail=str(refusal), cause=refusal.cause)
    except OSError as error:
        detail = f"cannot be read: {error.strerror or error}"
        return dict(nothing, state="refused", detail=detail, cause="environment")
    except MemoryError:
        return dict(nothing, state="refused", detail="does not fit into the memory", cause="environment")


def judge_all(spec: dict[str, Any], import_tree: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The verdict on each file. The installed source is imported before and after."""
    verdicts = [reported(functools.partial(judge, file, spec)) for file in spec["files"]]
    growing = [number for number, verdict in enumerate(verdicts) if verdict["added"]]
    if growing and spec["trees"]["healed"] is not None:
        import_tree("healed")
        for number in growing:
            file, verdict = spec["files"][number], verdicts[number]
            confirmed = reported(functools.partial(check_dead, file, verdict, spec))
            verdicts[number] = dict(confirmed, model=verdict["model"])
        import_tree("installed")
    else:
        for number in growing:
            detail = missing_weights(verdicts[number]["model"], verdicts[number]["added"])
            verdicts[number].update(state="refused", dropped=[], added=[], detail=detail, cause="content")
    return verdicts


def main() -> None:
    """Judges all files, then writes those anew that are asked for."""
    base_path = list(sys.path)
    end_with_parent()
    talk = Talk()
    spec = talk.receive()

    def import_tree(name: str) -> Any:
        return import_neuralforecast(spec["trees"][name], base_path)

    try:
        package = import_tree("installed")
    except Exception as error:
        talk.send("not-imported", detail=in_short(error))
        return
    talk.send("imported", file=package.__file__)
    verdicts = judge_all(spec, import_tree)
    for number, verdict in enumerate(verdicts):
        talk.send("judged", file=number, **verdict)
    talk.send("all-judged")
    for request in iter(talk.receive, None):
        for number, path in request["write"]:
            try:
                write_anew(spec["files"][number], verdicts[number], path, spec["trust"])
                talk.send("written", file=number)
            except Exception as error:
                words = str(error) if isinstance(error, Refusal) else in_short(error)
                talk.send("failed", file=number, detail=words, errno=getattr(error, "errno", None))
        talk.send("done")
