"""Finds user code: source files, replaced methods of neuralforecast, and layers of a model."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from traceback import walk_stack
from typing import Any

from ..events import MethodReplaced, OwnLayerUnused

NFPATCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
PYTHON = tuple(
    os.path.abspath(sysconfig.get_paths()[name]) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
TRAINERS = ("neuralforecast", "pytorch_lightning", "lightning", "lightning_fabric")


def is_user_file(file: str) -> bool:
    """Whether a source file belongs to the user, and not to Python or an installed package."""
    path = os.path.abspath(file)
    return (
        not path.startswith((*PYTHON, *inner_folders())) and "-packages" + os.sep not in path and os.path.isfile(path)
    )


def inner_folders() -> tuple[str, ...]:
    """The folders of this package and of neuralforecast."""
    package = getattr(sys.modules.get("neuralforecast"), "__file__", None)
    return (NFPATCH,) if package is None else (NFPATCH, os.path.dirname(os.path.abspath(package)) + os.sep)


def place_in_script() -> tuple[str, int]:
    """The file and line from which neuralforecast was called."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_stack(sys._getframe())]
    file, line = next((place for place in places if not place[0].startswith(inner_folders())), places[-1])
    return os.path.abspath(file), line


def place_in_own_code() -> str:
    """The innermost line of user code that is running, as "FILE:LINE"; empty if it called neuralforecast or Lightning.

    All other packages act for the code that calls them.
    """
    for frame, line in walk_stack(sys._getframe(1)):
        if is_user_file(frame.f_code.co_filename):
            return f"{os.path.abspath(frame.f_code.co_filename)}:{line}"
        if str(frame.f_globals.get("__name__")).partition(".")[0] in TRAINERS:
            return ""
    return ""


def replaced_methods(functions: Iterable[str], models: Iterable[Any]) -> Iterator[MethodReplaced]:
    """Those of these functions of neuralforecast that the script replaces, or that the models override.

    A replacement that calls the original does not count.
    """
    classes = {each for model in models for each in (type(model), type(getattr(model, "model", model)))}
    for function in functions:
        file, _, name = function.partition(":")
        module = sys.modules.get(file[: -len(".py")].replace("/", "."))
        owner_name, _, method = name.rpartition(".")
        owner = getattr(module, owner_name, None) if owner_name else module
        if owner is None:
            continue
        owners = [owner]
        if isinstance(owner, type):
            owners += [each for each in classes if issubclass(each, owner)]
        for each in owners:
            found = getattr(each, method, None)
            code = code_of(found)
            if code is not None and is_user_file(code.co_filename) and not calls_original(found, method):
                yield MethodReplaced(function, os.path.abspath(code.co_filename), code.co_firstlineno)


def code_of(function: Any) -> Any:
    """The code of a function without its wrappers; None for objects without code."""
    try:
        return getattr(inspect.unwrap(function), "__code__", None)
    except ValueError:
        return None


def calls_original(function: Any, method: str) -> bool:
    """Whether a replacement refers to the original: by `super()`, or by a variable."""
    inner = inspect.unwrap(function)
    code = inner.__code__
    if "super" in code.co_names and method in code.co_names:
        return True
    try:
        kept = list(inspect.getclosurevars(inner).nonlocals.values())
    except (TypeError, ValueError):
        kept = []
    kept += [inner.__globals__.get(name) for name in code.co_names]
    codes = [code_of(value) for value in kept if callable(value)]
    return any(each is not None and each.co_name == method and not is_user_file(each.co_filename) for each in codes)


def own_layers(model: Any, unused: Iterable[str]) -> list[OwnLayerUnused]:
    """The layers with these unused parameters that user classes create."""
    names = list(unused)
    found: dict[tuple[str, str], OwnLayerUnused] = {}
    for name in names:
        made = layer_of_own_class(model, outermost_unused_path(model, name, set(names)))
        if made is None:
            continue
        layer, owner, file, line = made
        before = found.get((layer, owner))
        parameters = (name,) if before is None else (*before.parameters, name)
        found[layer, owner] = OwnLayerUnused(layer, owner, file, line, parameters)
    return list(found.values())


def outermost_unused_path(model: Any, name: str, unused: set[str]) -> list[str]:
    """The path of the outermost module around this parameter that has only unused ones, or that of the parameter."""
    path = name.split(".")
    trained = [each for each, parameter in model.named_parameters() if parameter.requires_grad and each not in unused]
    for length in range(1, len(path)):
        if not any(each.startswith(".".join(path[:length]) + ".") for each in trained):
            return path[:length]
    return path


def layer_of_own_class(model: Any, path: list[str]) -> tuple[str, str, str, int] | None:
    """The layer at this path as a user class names it, the class, file and line; None if no user class creates it."""
    for length in range(len(path) - 1, -1, -1):
        owner = model
        for part in path[:length]:
            owner = getattr(owner, part)
        for each in type(owner).__mro__:
            file = getattr(sys.modules.get(each.__module__), "__file__", None)
            line = None if file is None else line_of_attribute(file, each.__qualname__, path[length])
            if file is None or line is None:
                continue
            if is_user_file(file):
                return layer_expression(path[length:]), each.__qualname__, os.path.abspath(file), line
            break  # a layer of a library, such as the weight of a `Linear`: its owner is next
    return None


def syntax_nodes(file: str) -> Iterator[ast.AST]:
    """The nodes of the syntax tree of a source file; none if it cannot be read or parsed."""
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return iter(())
    return ast.walk(tree)


@functools.lru_cache(maxsize=256)
def line_of_attribute(file: str, class_name: str, attribute: str) -> int | None:
    """The first line on which a class assigns this attribute; None if it does not."""
    name = class_name.rpartition(".")[2]
    classes = [node for node in syntax_nodes(file) if isinstance(node, ast.ClassDef) and node.name == name]
    lines = [
        node.lineno
        for each in classes
        for node in ast.walk(each)
        if isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Store)
    ]
    return min(lines, default=None)


def layer_expression(path: list[str]) -> str:
    """The layer at this path as a method of its owner writes it."""
    return "self" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path)
