"""The models of a release, read from its source without importing it."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfpatch.errors import InstallEnvironmentError

EXOGENOUS_KINDS = {"static": "stat", "historic": "hist", "future": "futr"}

# Docstrings list the choices of an option as `from ['ReLU', ...]`, `[avg, max, conv]` or `Options: 'GRU', 'RNN'`.
_BRACKETED = re.compile(r"\[([^\[\]()]+)\](?!\()")
_LISTED = re.compile(r"Options: (.+)")
_WORD = re.compile(r"[\"'`]?([A-Za-z_][\w]*)[\"'`]?$")


@dataclass(frozen=True)
class Expression:
    """The source of a default that is not a literal, such as `MAE()`."""

    source: str


@dataclass(frozen=True)
class ModelSource:
    """A model class.

    `defaults` are the options of its constructor with their defaults, `required` those without a default. `exogenous`
    are the kinds of exogenous features that it supports. `choices` are the values of options that its docstring lists.
    """

    name: str
    file: Path
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    exogenous: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]]

    @property
    def options(self) -> tuple[str, ...]:
        """All options of the constructor, in order."""
        return (*self.required, *self.defaults)


def models_of(package: Path) -> tuple[ModelSource, ...]:
    """The models that `neuralforecast.models` exports, in order. `package` is the folder `neuralforecast/`.

    Raises InstallEnvironmentError if the folder has no such module, or one that cannot be read.
    """
    folder = package / "models"
    exports = [
        (alias.name, folder / f"{statement.module}.py")
        for statement in _parsed(folder / "__init__.py").body
        if isinstance(statement, ast.ImportFrom) and statement.level == 1
        for alias in statement.names
    ]
    if not exports:
        raise InstallEnvironmentError(f"{folder} exports no models in a way that nfpatch knows. Upgrade nfpatch.")
    return tuple(_model_of(name, file) for name, file in exports)


def losses_of(package: Path) -> frozenset[str]:
    """The names of the loss classes of a release. `package` is the folder `neuralforecast/`."""
    body = _parsed(package / "losses" / "pytorch.py").body
    return frozenset(statement.name for statement in body if isinstance(statement, ast.ClassDef))


def _parsed(file: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():  # about escape sequences in docstrings
            warnings.simplefilter("ignore")
            return ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise InstallEnvironmentError(
            f"{file} cannot be read as Python: {error}. Reinstall neuralforecast, or name another one."
        ) from error


def _model_of(name: str, file: Path) -> ModelSource:
    classes = [node for node in _parsed(file).body if isinstance(node, ast.ClassDef) and node.name == name]
    functions = [node for each in classes for node in each.body if isinstance(node, ast.FunctionDef)]
    constructor = next((function for function in functions if function.name == "__init__"), None)
    if constructor is None:
        raise InstallEnvironmentError(
            f"{file} defines no class {name} with a constructor, though neuralforecast.models exports it from there. "
            "Reinstall neuralforecast, or name another one."
        )
    arguments = dict(_arguments(constructor.args))
    return ModelSource(
        name=name,
        file=file,
        required=tuple(option for option, default in arguments.items() if default is None),
        defaults={option: _value(default) for option, default in arguments.items() if default is not None},
        exogenous=tuple(kind for kind, prefix in EXOGENOUS_KINDS.items() if _supports(prefix, classes[0], constructor)),
        choices=_documented_choices(ast.get_docstring(classes[0]) or ""),
    )


def _arguments(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr | None]]:
    """The constructor's arguments except `self`, each with its default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    pairs = [*zip(positional, [*missing, *arguments.defaults]), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    yield from ((argument.arg, default) for argument, default in pairs[1:])


def _value(default: ast.expr) -> Any:
    """The value of a default that is a literal, or a product like `3 * [[512, 512]]`; of any other an Expression."""
    if isinstance(default, ast.BinOp) and isinstance(default.op, ast.Mult):
        return _value(default.left) * _value(default.right)
    try:
        return ast.literal_eval(default)
    except ValueError:
        return Expression(ast.unparse(default))


def _supports(prefix: str, class_definition: ast.ClassDef, constructor: ast.FunctionDef) -> bool:
    """Whether a model supports exogenous features of a kind.

    Releases from 1.7.3 on have a class attribute for this. The constructors of earlier ones raise if a list is given.
    """
    option = f"{prefix}_exog_list"
    if option not in {name for name, _ in _arguments(constructor.args)}:
        return False
    for statement in class_definition.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == f"EXOGENOUS_{prefix.upper()}":
            return bool(ast.literal_eval(statement.value))
    own_size = re.compile(rf"\b{prefix}_(exog|input)_(list|size)\b")
    return not any(
        isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise) and own_size.search(ast.unparse(node.test))
        for node in ast.walk(constructor)
    )


def _documented_choices(docstring: str) -> dict[str, tuple[str, ...]]:
    """The choices that a docstring lists, by option. Entries look like "`name`: str, ..." or "name (str): ..."."""
    choices = {}
    for line in docstring.splitlines():
        entry = re.match(r"\s*`?(\w+)`?(?::| \()", line)
        listed = _BRACKETED.search(line) or _LISTED.search(line)
        if entry is None or listed is None:
            continue
        words = [_WORD.match(word.strip(" .<br>")) for word in listed.group(1).split(",")]
        if len(words) > 1 and all(words):
            choices[entry.group(1)] = tuple(word.group(1) for word in words if word is not None)
    return choices
