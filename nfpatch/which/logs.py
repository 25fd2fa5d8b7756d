"""What a log says: its lines without what launchers put before them, tracebacks, unused parameters, layers.

The log of several processes is a mixture: each launcher has its own way to say which line is whose. Lines with the same
prefix are taken for those of one process, and a traceback is read among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, Optional

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What launchers put before the words of a process; there may be one around the other.
_PREFIX = re.compile(
    r"""\[(?:[\w-]*?rank:?\ ?\d+|[A-Za-z_][\w-]*\d+)\]:?\s?  # torch [rank1]:, torchrun [default0]:, Lightning [rank: 1]
    | \((?:[\w.:<>\ -]+\ )?pid=\d+(?:,\ ip=[\d.a-f:]+)?\)\s?  # ray (_train_tune pid=1)
    | \[\d+,\d+\](?:<\w+>)?:?\s?  # mpirun [1,0]<stderr>:
    | \d+:\s  # srun --label
    | [\w.-]+\s*\|\s(?=\s*(?:\[\w*rank|Traceback|File\ ["/]|[\w.]*(?:Error|Exception)\b))  # docker compose
    """,
    re.VERBOSE,
)
# What loggers do, which differs from line to line.
_TIME = re.compile(r"\d{2,4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d\S*\s(?:[A-Z]{4,8} [\w.$]+: )?")
_FRAME = re.compile(
    r"""File\ "(?P<file>[^"]+)",\ line\ (?P<line>\d+),?\ in\ (?P<function>[\w<>]+)"""  # Python, faulthandler, py-spy
    r"""|File\ (?P<file2>\S+\.py):(?P<line2>\d+),\ in\ (?P<function2>[\w.<>]+)\("""  # IPython
    r"""|(?P<file3>\S+\.py):(?P<line3>\d+)\ in\ (?P<function3>[\w<>]+)""",  # rich
    re.VERBOSE,
)
_PYTHON_FILE = ".py"
_HEADING = "Traceback (most recent call last)"
# The last line of a traceback. Nothing else of one begins at the margin.
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:\([\w.]*\))?(?::\s|:?$)")
_WITHIN_TRACEBACK = re.compile(r"\s|$|-+>|\d+ |[│┃╭╰]")
# Lines that are looked at above an error, and how many of its message there may be above the words that were found.
_LONGEST_TRACEBACK = 1000
_LONGEST_MESSAGE = 10

_NAMED = re.compile(r"Parameters which did not receive grad for rank \d+:(.*)")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
# What wrappers put before the names of the parameters of a model: DDP, Lightning, torch.compile.
_WRAPPERS = re.compile(r"^(?:(?:module|_forward_module|_orig_mod)\.)+")
_COLUMN = re.compile("[|│┃]")
_LAYER = re.compile(r"[\s│┃]*(\d+)\s*[|│┃]\s*([\w.]+)\s*[|│┃]\s*(\w+)\s*[|│┃]\s*([\d.]+)")


class Line(NamedTuple):
    """A line of a log: its number, from 1, what launchers have put before it, and the rest."""

    number: int
    prefix: str
    text: str


class Frame(NamedTuple):
    """A frame of a traceback: the file as it stands there, the line in it, and the function."""

    file: str
    line: int
    function: str

    @property
    def place(self) -> Optional[str]:
        """The file as the catalog has it, relative to the folder that holds `neuralforecast/`; None for other files."""
        _, found, rest = self.file.replace("\\", "/").rpartition("/neuralforecast/")
        return f"neuralforecast/{rest}" if found else None

    @property
    def is_library(self) -> bool:
        """Whether it is of an installed package, or of Python itself, and not of a user's script."""
        file = self.file.replace("\\", "/")
        return any(part in file for part in ("/site-packages/", "/dist-packages/", "/lib/python")) or file[:1] == "<"


class Log:
    """A log, a traceback or a line of one."""

    def __init__(self, text: str) -> None:
        self.text = _COLOUR.sub("", text) if "\x1b" in text else text
        self._lines = self.text.split("\n")

    def line(self, index: int) -> Line:
        """A line by its index, from 0. What a progress bar has overwritten is left out."""
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
        """The lines that have these words in them, with whatever numbers."""
        first = max(re.split(r"\d+", words), key=len)
        if first not in self.text:
            return
        pattern = re.compile(re.sub(r"\d+", r"\\d+", re.escape(words)))
        for index, text in enumerate(self._lines):
            if first in text and pattern.search(text) is not None:
                yield self.line(index)

    def frames_of(self, line: Line) -> tuple[Frame, ...]:
        """The frames of the traceback of this line's error, the innermost last; none where it has none.

        Passed over are lines of other processes, and those of the message that stand above this one.
        """
        frames: list[Frame] = []
        is_below = _ERROR.match(line.text) is None
        passed = 0
        for index in range(line.number - 2, max(line.number - 2 - _LONGEST_TRACEBACK, -1), -1):
            above = self.line(index)
            if above.prefix != line.prefix:
                continue
            found = _FRAME.search(above.text) if _PYTHON_FILE in above.text else None
            if found is not None:
                file, number, function = (each for each in found.groups() if each is not None)
                frames.append(Frame(file, int(number), function.rpartition(".")[2]))
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
        """The parameters without a gradient that torch lists, on any rank, and the first line that does.

        So is a text that has nothing but names.
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
        """The layers with parameters, of the last model before this line: the class of each by its name.

        From the summary that Lightning prints; empty where there is none.
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
        """Whether this class is named anywhere, itself or as what a search searches for."""
        return (
            model != "any"
            and model in self.text
            and re.search(rf"\b(?:Auto)?{re.escape(model)}\b", self.text) is not None
        )


def _without_wrappers(name: str) -> str:
    return _WRAPPERS.sub("", name)
