"""Records the lines of user code that run between two calls of neuralforecast, the values they use and what they raise.

If the ranks of a script diverge, the last line before they do decided it. Only the main thread is traced, after the
import of neuralforecast (tracing slows imports down), outside of its calls, and only LONGEST lines after each call.
"""

from __future__ import annotations

import ast
import builtins
import functools
import os
import sys
from dataclasses import replace
from types import FrameType
from typing import Any, Callable

from ..events import Step
from .own_code import is_user_file, syntax_nodes

LONGEST = 500
LONGEST_VALUE = 60
LONGEST_MESSAGE = 120
SIMPLE = (int, float, str, type(None), os.PathLike)


class LineTrace:
    """The lines that ran since the last call."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._conditions: dict[str, dict[int, list[ast.AST]] | None] = {}  # by file; None for code of packages
        self._on_call: Any = self._enter_frame  # one object, to recognize it in `stop`

    def start(self) -> None:
        """Starts a new trace, also of the running functions, unless a debugger or a coverage tool traces."""
        self.steps = []
        if sys.gettrace() is not None:
            return
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if self.is_own(frame.f_code.co_filename):
                frame.f_trace = self._on_line
            frame = frame.f_back
        sys.settrace(self._on_call)

    def stop(self) -> None:
        """Stops the trace."""
        if sys.gettrace() is self._on_call:
            sys.settrace(None)

    def is_own(self, file: str) -> bool:
        """Whether this is user code."""
        if file not in self._conditions:
            self._conditions[file] = conditions_in(file) if is_user_file(file) else None
        return self._conditions[file] is not None

    def add_seen(self, what: str) -> None:
        """Adds what the current line uses or raises."""
        if self.steps and what not in self.steps[-1].seen:
            self.steps[-1] = replace(self.steps[-1], seen=(*self.steps[-1].seen, what))

    def _enter_frame(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._on_line if self.is_own(frame.f_code.co_filename) else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            if len(self.steps) >= LONGEST:
                self.stop()
                return None
            file, line = frame.f_code.co_filename, frame.f_lineno
            conditions = self._conditions[file] or {}
            seen = values_in(conditions[line], frame) if line in conditions else ()
            self.steps.append(Step(os.path.abspath(file), line, frame.f_code.co_name, seen))
        elif event == "exception" and not issubclass(argument[0], (StopIteration, GeneratorExit)):
            self.add_seen(f"raises {argument[0].__name__}: {str(argument[1])[:LONGEST_MESSAGE]}")
        return self._on_line


def conditions_in(file: str) -> dict[int, list[ast.AST]]:
    """The conditions in a source file, by the line on which their statement starts."""
    found: dict[int, list[ast.AST]] = {}
    for node in syntax_nodes(file):
        if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
            found.setdefault(node.lineno, []).append(node.test)
    return found


def values_in(conditions: list[ast.AST], frame: FrameType) -> tuple[str, ...]:
    """The names with simple values and the environment variables in conditions, with their values."""
    seen: dict[str, None] = {}
    for node in (node for condition in conditions for node in ast.walk(condition)):
        if isinstance(node, ast.Name):
            value = frame.f_locals.get(node.id, frame.f_globals.get(node.id, builtins))
            if isinstance(value, SIMPLE):
                seen[f"{node.id} is {short_repr(value)}"] = None
        elif isinstance(node, (ast.Call, ast.Subscript)):
            variable = variable_in(node)
            if variable is not None:
                seen[f"{variable} in the environment is {short_repr(os.environ.get(variable))}"] = None
    return tuple(seen)


def variable_in(node: Any) -> str | None:
    """The environment variable that `os.environ[...]`, `os.environ.get(...)` or `os.getenv(...)` reads."""
    if isinstance(node, ast.Subscript):
        owner, name = node.value, getattr(node.slice, "value", node.slice)  # a node, before Python 3.9
    elif node.args:
        owner, name = node.func, node.args[0]
    else:
        return None
    name = getattr(name, "value", getattr(name, "s", name))  # of a string
    names = {getattr(each, kind, "") for each in ast.walk(owner) for kind in ("id", "attr")}
    return name if isinstance(name, str) and names & {"environ", "getenv"} else None


def short_repr(value: Any) -> str:
    """The value as text of limited length."""
    text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def watch_lookups(trace: LineTrace) -> None:
    """Makes the trace record which files user code looks for, and whether they exist."""
    import glob
    import pathlib

    owners: list[tuple[Any, tuple[str, ...]]] = [
        (os.path, ("exists", "isfile", "isdir")),
        (pathlib.Path, ("exists", "is_file", "is_dir")),
        (os, ("listdir",)),
        (glob, ("glob",)),
    ]
    for owner, names in owners:
        for name in names:
            setattr(owner, name, record_lookups(trace, getattr(owner, name)))


def record_lookups(trace: LineTrace, look: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose results for user code are added to the trace."""

    @functools.wraps(look)
    def answered(*arguments: Any, **options: Any) -> Any:
        answer = look(*arguments, **options)
        path = arguments[0] if arguments else None
        if trace.steps and isinstance(path, (str, os.PathLike)) and trace.is_own(sys._getframe(1).f_code.co_filename):
            is_list = isinstance(answer, list)
            words = f"has {len(answer)} entries" if is_list else "exists" if answer else "does not exist"
            trace.add_seen(f"{os.path.abspath(path)} {words}")
        return answer

    return answered
