"""Parsing logs: lines without the prefixes of launchers, tracebacks, unused parameters, layers.

The log of several processes is interleaved, and each launcher marks the lines of a process with its own prefix. Lines
with the same prefix are assumed to come from one process, and a traceback is read from these only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, Optional

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# The prefixes of launchers; a line may have several.
_PREFIX = re.compile(
    r"""\[(?:[\w-]*?rank:?\ ?\d+|[A-Za-z_][\w-]*\d+)\]:?\s?  # torch [rank1]:, torchrun [default0]:, Lightning [rank: 1]
    | \((?:[\w.:<>\ -]+\ )?pid=\d+(?:,\ ip=[\d.a-f:]+)?\)\s?  # ray (_train_tune pid=1)
    | \[\d+,\d+\](?:<\w+>)?:?\s?  # mpirun [1,0]<stderr>:
    | \d+:\s  # srun --label
    | [\w.-]+\s*\|\s(?=\s*(?:\[\w*rank|Traceback|File\ ["/]|[\w.]*(?:Error|Exception)\b))  # docker compose
    """,
    re.VERBOSE,
)
# The prefixes of loggers, which differ from line to line.
_TIME = re.compile(r"\d{2,4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d\S*\s(?:[A-Z]{4,8} [\w.$]+: )?")
_FRAME = re.compile(
    r"""File\ "(?P<file>[^"]+)",\ line\ (?P<line>\d+),?\ in\ (?P<function>[\w<>]+)"""  # Python, faulthandler, py-spy
    r"""|File\ (?P<file2>\S+\.py):(?P<line2>\d+),\ in\ (?P<function2>[\w.<>]+)\("""  # IPython
    r"""|(?P<file3>\S+\.py):(?P<line3>\d+)\ in\ (?P<function3>[\w<>]+)""",  # rich
    re.VERBOSE,
)
_PYTHON_FILE = ".py"
_HEADING = "Traceback (most recent call last)"
# The last line of a traceback. No other line of it starts in the first column.
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:\([\w.]*\))?(?::\s|:?$)")
_WITHIN_TRACEBACK = re.compile(r"\s|$|-+>|\d+ |[│┃╭╰]")
# How many lines above an error are searched, and how many lines of its message may precede the line that was found.
_LONGEST_TRACEBACK = 1000
_LONGEST_MESSAGE = 10

_NAMED = re.compile(r"Parameters which did not receive grad for rank \d+:(.*)")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
# The prefixes that wrappers (DDP, Lightning, torch.compile) add to the names of parameters.
_WRAPPERS = re.compile(r"^(?:(?:module|_forward_module|_orig_mod)\.)+")
_COLUMN = re.compile("[|│┃]")
# A row of Lightning's model summary. With rich the columns are cut to the width of the terminal: StaticCovariateEncod…
_LAYER = re.compile(r"[\s│┃]*(\d+)\s*[|│┃]\s*([\w.]+…?)\s*[|│┃]\s*(\w+…?)\s*[|│┃]\s*([\d.]+)")
CUT = "…"


class Line(NamedTuple):
    """A line of a log: its number, from 1, the prefix of the launcher, and the rest."""

    number: int
    prefix: str
    text: str


class TracebackFrame(NamedTuple):
    """A frame of a traceback: the file as printed, the line number, and the function."""

    file: str
    line: int
    function: str

    @property
    def catalog_path(self) -> Optional[str]:
        """The path that the catalog uses for the file, `neuralforecast/...`; None for files of other packages."""
        _, found, rest = self.file.replace("\\", "/").rpartition("/neuralforecast/")
        return f"neuralforecast/{rest}" if found else None

    @property
    def is_library(self) -> bool:
        """Whether the file belongs to an installed package or to Python, not to a user's script."""
        file = self.file.replace("\\", "/")
        return any(part in file for part in ("/site-packages/", "/dist-packages/", "/lib/python")) or file[:1] == "<"


class Log:
    """A log, a traceback or a single line."""

    def __init__(self, text: str) -> None:
        self.text = _COLOUR.sub("", text) if "\x1b" in text else text
        self._lines = self.text.split("\n")

    def line(self, index: int) -> Line:
        """A line by its index, from 0, without text that a progress bar has overwritten."""
        text = self._lines[index].rstrip("\r").rpartition("\r")[2]
        prefix, end = "", 0
        while True:
            if (time := _TIME.match(text, end)) is not None:
                end = time.end()
            elif (found := _PREFIX.match(text, end)) is not None and found.end() > end:
                prefix, end = prefix + found[0].strip(), found.end()
            else:
                return Line(index + 1, prefix, text[end:])

    def find(self, words: str) -> Iterator[Line]:
        """The lines that contain these words; numbers may differ."""
        first = max(re.split(r"\d+", words), key=len)
        if first not in self.text:
            return
        pattern = re.compile(re.sub(r"\d+", r"\\d+", re.escape(words)))
        for index, text in enumerate(self._lines):
            if first in text and pattern.search(text) is not None:
                yield self.line(index)

    def frames_of(self, line: Line) -> tuple[TracebackFrame, ...]:
        """The frames of the traceback that ends with this line's error, innermost last; empty if it has none.

        Lines of other processes, and lines of the message above this one, are skipped.
        """
        frames: list[TracebackFrame] = []
        is_below = _ERROR.match(line.text) is None
        passed = 0
        for index in range(line.number - 2, max(line.number - 2 - _LONGEST_TRACEBACK, -1), -1):
            above = self.line(index)
            if above.prefix != line.prefix:
                continue
            found = _FRAME.search(above.text) if _PYTHON_FILE in above.text else None
            if found is not None:
                file, number, function = (each for each in found.groups() if each is not None)
                frames.append(TracebackFrame(file, int(number), function.rpartition(".")[2]))
            elif _HEADING in above.text:
                break
            elif is_below and not frames and passed < _LONGEST_MESSAGE:
                passed += 1
                is_below = _ERROR.match(above.text) is None
            elif not _WITHIN_TRACEBACK.match(above.text):
                break
        return tuple(reversed(frames))

    @cached_property
    def unused(self) -> Optional[tuple[Line, tuple[str, ...]]]:
        """The unused parameters that torch lists on any rank, with the first such line; None if there are none.

        A text that consists only of names of parameters counts as such a list.
        """
        first: Optional[Line] = None
        names: dict[str, None] = {}
        for line in self.find("Parameters which did not receive grad for rank"):
            found = _NAMED.search(line.text)
            if found is not None:
                first = first or line
                names.update(dict.fromkeys(map(_without_wrappers, _NAME.findall(found[1]))))
        words = re.split(r"[\s,]+", self.text.strip(" \r\n,[]'\""))
        if first is None and all(_NAME.fullmatch(word.strip("'\"")) for word in words):
            first, names = self.line(0), dict.fromkeys(_without_wrappers(word.strip("'\"")) for word in words)
        return None if first is None else (first, tuple(names))

    def layers_before(self, line: Line) -> dict[str, str]:
        """The layers with parameters of the last model summary before this line: the class of each by its name.

        Lightning prints these summaries. A name or class that was cut ends with CUT. Empty if there is no summary.
        """
        layers: dict[str, str] = {}
        for index in range(line.number - 2, -1, -1):
            found = _LAYER.match(self.line(index).text) if _COLUMN.search(self._lines[index]) else None
            if found is not None:
                layers.update({found[2]: found[3]} if found[4] != "0" else {})
                if found[1] == "0":
                    break
        return layers

    def names_model(self, model: str) -> bool:
        """Whether the log mentions this class, or its Auto class."""
        return (
            model != "any"
            and model in self.text
            and re.search(rf"\b(?:Auto)?{re.escape(model)}\b", self.text) is not None
        )


def _without_wrappers(name: str) -> str:
    return _WRAPPERS.sub("", name)
