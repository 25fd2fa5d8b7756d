"""The package runs on Python 3.7, without nfpatch, and its modules can be imported without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import environment

from nfpatch.target import ENTRY

FOLDER = ENTRY.parent
SOURCES = sorted(FOLDER.rglob("*.py"))
# The package that the entry script makes importable; the script itself is not imported.
MODULES = sorted(
    ".".join(("nfpatch_target", *path.relative_to(FOLDER).with_suffix("").parts)).replace(".__init__", "")
    for path in SOURCES
    if path != ENTRY
)
IMPORTING = """
import importlib, json, runpy, sys
entry, *names = sys.argv[1:]
runpy.run_path(entry)
for name in names:
    importlib.import_module(name)
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0].startswith("nfpatch"))))
"""


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def imports_in(node: ast.AST, once_called: bool) -> Iterator[tuple[int, str]]:
    """The level and the name of every import, with or without those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((0, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.level, child.module or ""
        elif once_called or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports_in(child, once_called)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_its_syntax_is_valid_python_3_7(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=(3, 7))


def test_python_3_7_compiles_it(python37: Path) -> None:
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"

    subprocess.run([python37, "-c", code, *SOURCES], check=True)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_it_imports_no_other_module_of_nfpatch(source: Path) -> None:
    depth = len(source.relative_to(FOLDER).parts)
    for level, name in imports_in(ast.parse(source.read_text()), once_called=True):
        assert level <= depth
        assert level > 0 or not name.startswith("nfpatch")


@pytest.mark.skipif(sys.version_info < (3, 10), reason="does not know the names of the standard library")
@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_modules_import_only_the_standard_library_at_the_top(source: Path) -> None:
    for level, name in imports_in(ast.parse(source.read_text()), once_called=False):
        assert level > 0 or name.split(".")[0] in sys.stdlib_module_names


def test_training_libraries_are_imported_inside_functions() -> None:
    used = {name for source in SOURCES for _, name in imports_in(ast.parse(source.read_text()), once_called=True)}

    assert {"torch", "pytorch_lightning", "pandas", "numpy"} <= used


@pytest.mark.skipif(sys.version_info < (3, 10), reason="does not know the names of the standard library")
def test_no_module_shadows_one_of_the_standard_library() -> None:
    assert not {path.stem for path in FOLDER.iterdir()} & set(sys.stdlib_module_names)


def test_every_module_can_be_imported_without_torch_and_nfpatch(python: Path, tmp_path: Path) -> None:
    command = [python, "-I", "-c", IMPORTING, ENTRY, *MODULES]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == MODULES
