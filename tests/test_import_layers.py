"""The layers of the architecture: which layer may import which, and that there are no import cycles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from support import ROOT

PACKAGE = ROOT / "nfpatch"

# From the lowest layer up: the layers that each may import (docs/concepts/design.md).
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "fingerprints": set(),
    "target": set(),
    "codemod": {"errors"},
    "catalog": {"codemod", "errors", "fingerprints"},
    "installs": {"errors"},
    "patching": {"catalog", "codemod", "errors", "fingerprints", "installs"},
    "console": {"catalog", "fingerprints", "installs", "patching"},
    "engine": {"catalog", "console", "errors", "installs", "patching", "target"},
    "proof": {"catalog", "console", "engine", "errors", "installs", "patching", "target"},
    "audit": {"catalog", "console", "engine", "errors", "installs", "proof"},
    "checkpoint": {"catalog", "console", "engine", "errors", "installs", "patching", "target"},
    "rehearsal": {"catalog", "console", "engine", "errors", "installs", "patching", "proof", "target"},
    "which": {"catalog", "console", "installs", "patching"},
    "commands": {
        "which",
        "audit",
        "catalog",
        "checkpoint",
        "console",
        "engine",
        "errors",
        "installs",
        "patching",
        "proof",
        "rehearsal",
    },
    "cli": {"commands"},
    "__main__": {"cli"},
}


def modules() -> dict[str, Path]:
    """Every module of nfpatch by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_by(path: Path, name: str, known: set[str]) -> set[str]:
    """The modules of nfpatch that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, (package if node.level else "", node.module or "")))
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule in known else base)
    return (found & known) - {"nfpatch", name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imported_by(path, name, set(known)) for name, path in known.items()}


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_layers_import_only_lower_layers() -> None:
    for module, imported in graph().items():
        if layer_of(module):
            allowed = LAYERS[layer_of(module)] | {layer_of(module)}
            above = sorted(other for other in imported if layer_of(other) not in allowed)
            assert not above, f"{module} imports {above}"


def test_the_package_has_the_documented_layers_and_no_others() -> None:
    assert {layer_of(module) for module in modules()} - {""} == LAYERS.keys()
    design = (ROOT / "docs" / "concepts" / "design.md").read_text(encoding="utf-8")
    for name in LAYERS.keys() - {"__main__"}:
        shown = f"`{name}/`" if (PACKAGE / name).is_dir() else f"`{name}.py`"
        assert shown in design, f"docs/concepts/design.md does not show {shown}"


def test_there_are_no_import_cycles() -> None:
    order = [*TopologicalSorter(graph()).static_order()]  # raises CycleError with the cycle
    assert len(order) == len(modules())


def test_code_for_the_target_interpreter_imports_nothing_of_nfpatch() -> None:
    for module, imported in graph().items():
        if layer_of(module) == "target":
            assert all(layer_of(other) == "target" for other in imported)
