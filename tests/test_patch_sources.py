"""The sources of the catalog: small hooks that call runtime modules."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from releases import read_member
from support import EACH_RELEASE, ROOT, invoke

from nfpatch.catalog import DEFAULT_GROUPS, Patch, load_catalog
from nfpatch.codemod import RUNTIME_PACKAGE, Rewrite
from nfpatch.patching.rewriting import rewritten

SOURCES = sorted((ROOT / "patches").glob("*.py"))
RUNTIME = {path.stem: path for path in (ROOT / "patches" / "runtime").glob("*.py")}
LONGEST_TEXT = 25
# The most lines that the default groups may add to upstream's files.
ADDED_LINES = {"1.5.0": 260, "1.7.4": 200, "3.3.0": 200}


def name_of(path: Path) -> str:
    return path.name


def texts_in(tree: ast.Module) -> Iterator[str]:
    """The strings of a module, including the parts of f-strings, without docstrings."""
    owners = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docstrings = {id(node.body[0].value) for node in owners if node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_a_patch_has_no_long_string_and_no_str_replace(source: Path) -> None:
    tree = ast.parse(source.read_text())
    assert max((len(text.strip().splitlines()) for text in texts_in(tree)), default=0) <= LONGEST_TEXT
    methods = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert "replace" not in methods


@pytest.mark.parametrize("release", ADDED_LINES)
def test_the_default_groups_add_few_lines_to_upstream_files(release: str, released: Callable[[str], Path]) -> None:
    site = released(release)
    before = site.with_name("before")
    subprocess.run(["cp", "-r", site, before], check=True)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    command = ["diff", "-r", "-x", "_nfpatch", before / "neuralforecast", site / "neuralforecast"]
    difference = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert 0 < sum(line.startswith(">") for line in difference.splitlines()) <= ADDED_LINES[release]


def rewrites_of(release: str) -> dict[str, dict[str, Rewrite]]:
    """Every file of the release that a patch changes, with the codemods of all patches by id."""
    catalog = load_catalog()
    by_file: dict[str, dict[str, Rewrite]] = {}
    for patch in catalog.patches:
        for file, rewrite in catalog.rewrites_for(patch, release).items():
            by_file.setdefault(file, {})[patch.id] = rewrite
    return by_file


def calls_of_modules(tree: ast.AST, modules: frozenset[str]) -> set[tuple[str, str]]:
    """The functions and classes of these modules that the source uses, as (module, name)."""
    return {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }


def names_of(module: ast.Module) -> set[str]:
    """The functions and classes of a module, including those that it re-exports."""
    defined = {node.name for node in module.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    imports = [node for node in module.body if isinstance(node, ast.ImportFrom)]
    return defined | {alias.asname for node in imports for alias in node.names if alias.asname == alias.name}


@pytest.mark.parametrize("release", EACH_RELEASE)
def test_hooks_import_and_call_existing_functions_of_runtime_modules(release: str) -> None:
    public = {name: names_of(ast.parse(path.read_text())) for name, path in RUNTIME.items()}
    for file, rewrites in rewrites_of(release).items():
        source = read_member(release, file)
        assert source is not None
        for patch_id, rewrite in rewrites.items():
            result = ast.parse(rewritten(source, {patch_id: rewrite}))
            imported = {
                alias.name
                for node in result.body
                if isinstance(node, ast.ImportFrom) and node.module == RUNTIME_PACKAGE
                for alias in node.names
            }
            assert imported == set(rewrite.imports) <= public.keys(), (patch_id, release, file)
            called = calls_of_modules(result, frozenset(imported))
            assert {module for module, _ in called} == imported, (patch_id, release, file)
            unknown = {(module, name) for module, name in called if name not in public[module]}
            assert not unknown, (patch_id, release, file)


def test_every_runtime_module_of_a_shipped_patch_exists() -> None:
    load_catalog().check_modules()  # commands skip this check to start fast


@pytest.mark.parametrize("release", EACH_RELEASE)
def test_no_upstream_name_shadows_a_runtime_module(release: str) -> None:
    for file, rewrites in rewrites_of(release).items():
        imported = frozenset(name for rewrite in rewrites.values() for name in rewrite.imports)
        source = read_member(release, file)
        assert source is not None
        tree = ast.parse(rewritten(source, rewrites))
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
        for function in functions:
            called = {module for module, _ in calls_of_modules(function, imported)}
            stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and is_stored(node)}
            stored |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
            assert not called & stored, (release, file, getattr(function, "name", "lambda"))
        top = {
            node.id
            for each in tree.body
            for node in ast.walk(each)
            if isinstance(node, ast.Name) and is_stored(node) and not isinstance(each, (ast.ClassDef, ast.FunctionDef))
        }
        others = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "module", None) != RUNTIME_PACKAGE
            for alias in node.names
        }
        assert not imported & (top | others), (release, file)


def is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def test_every_patch_has_a_known_group() -> None:
    def groups(patches: tuple[Patch, ...]) -> set[str]:
        return {patch.group for patch in patches}

    assert groups(load_catalog().patches) == {*DEFAULT_GROUPS, "spark"}


def test_python_3_7_compiles_the_runtime_modules(python37: Path) -> None:
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    assert len(RUNTIME) > 10
    subprocess.run([python37, "-c", code, *RUNTIME.values()], check=True)
