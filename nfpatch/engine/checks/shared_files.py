"""More than one rank writes the same file in a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nfpatch.engine.facts import CallFacts, Finding, base_name, listed

WHY = "A rank may read a half-written file, and the final content depends on which rank writes last."


def find(facts: CallFacts) -> Finding | None:
    """The files that more than one rank writes; first those that neuralforecast writes, and not the script's code."""
    shared = shared_files(each.written for each in facts.ranks.values())
    writers = {path: writer for each in facts.ranks.values() for path, writer in each.writers.items() if writer}
    others = [path for path in shared if path not in writers]
    if others:
        return Finding("wrong", f"more than one rank writes {listed(others)}", stages=("save",))
    if not shared:
        return None
    lines = list(dict.fromkeys(base_name(writers[path]) for path in shared))
    words = f"more than one rank writes {listed(shared)}: the script's own code does, in {listed(lines)}"
    return Finding("wrong", words, remedy=(f"Write it on one rank only, in {lines[0]}:", *_ON_ONE_RANK))


_ON_ONE_RANK = (
    "    if trainer.is_global_zero:  # in a model: self.trainer.is_global_zero",
    "        ...  # write the file here",
)


def shared_files(written: Iterable[Mapping[str, set[str]]]) -> list[str]:
    """The paths at which writes of several ranks may conflict.

    Ranks do not conflict if all of them replace the file atomically, or all of them remove it.
    """
    found: dict[str, list[set[str]]] = {}
    for paths in written:
        for path, ways in paths.items():
            found.setdefault(path, []).append(ways)
    harmless = ({"replaced"}, {"removed"})
    return sorted(path for path, ways in found.items() if len(ways) > 1 and set().union(*ways) not in harmless)
