"""Patches that edit the same function: their edits combine, and their hooks work together.

Two such patches once made `fit` hang, although each was correct by itself.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
from releases import RELEASES, read_member
from support import long

from nfpatch.catalog import Catalog, load_catalog
from nfpatch.codemod import Rewrite
from nfpatch.engine.sources import build_overlay
from nfpatch.installs.find import find_install
from nfpatch.patching.edits import Edit, apply_edits
from nfpatch.patching.install_state import inspect_install
from nfpatch.patching.plan import original_with
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile
from nfpatch.proof.prove import ProofRequest, agenda_for
from nfpatch.proof.runner import run_proof
from nfpatch.proof.verdict import ProofCase

NEWEST = RELEASES[-1]


class Pair(NamedTuple):
    """Two patches that edit the same function of a file, by their ids."""

    one: str
    other: str
    file: str
    function: str


@cache
def the_catalog() -> Catalog:
    return load_catalog()


def functions_in(content: bytes) -> list[tuple[int, int, int, str]]:
    """The first byte, the byte after the last, the indentation and the name of each function that is not nested."""
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                assert node.end_lineno is not None
                found.append((starts[first - 1], starts[node.end_lineno], node.col_offset, prefix + node.name))

    visit(ast.parse(content).body, "")
    return found


def is_inside(edit: Edit, start: int, stop: int, indentation: int) -> bool:
    """Whether an edit is in this function; an insertion right after it is, if it continues its body."""
    if edit.is_import:
        return False
    if not edit.is_insertion:
        return edit.start < stop and edit.stop > start
    if edit.start != stop:
        return start < edit.start < stop
    first = next((line for line in edit.new.splitlines() if line.strip()), b"")
    return len(first) - len(first.lstrip()) > indentation


def edits_in(content: bytes, rewrites: Mapping[str, Rewrite]) -> dict[str, tuple[Edit, ...]]:
    source = SourceFile(content)
    return {patch_id: edits_of(rewrite, source, fingerprinted=True) for patch_id, rewrite in rewrites.items()}


def sharing(content: bytes, edits: Mapping[str, tuple[Edit, ...]]) -> Iterator[tuple[str, str, str]]:
    """Each pair of patches that edit the same function, with its name."""
    for start, stop, indentation, name in functions_in(content):
        editing = [i for i, own in edits.items() if any(is_inside(edit, start, stop, indentation) for edit in own)]
        for one, other in combinations(sorted(editing), 2):
            yield one, other, name


def rewrites_of(release: str) -> Iterator[tuple[str, bytes, dict[str, Rewrite]]]:
    """Each file of a release that several patches change, its content, and their codemods."""
    catalog = the_catalog()
    by_file: dict[str, dict[str, Rewrite]] = {}
    for patch in catalog.patches:
        for file, rewrite in catalog.rewrites_for(patch, release).items():
            by_file.setdefault(file, {})[patch.id] = rewrite
    for file, rewrites in sorted(by_file.items()):
        content = read_member(release, file)
        assert content is not None
        if len(rewrites) > 1:
            yield file, content, rewrites


def pairs_in(release: str) -> list[Pair]:
    """Each pair of patches that edit the same function in this release."""
    return [
        Pair(one, other, file, function)
        for file, content, rewrites in rewrites_of(release)
        for one, other, function in sharing(content, edits_in(content, rewrites))
    ]


def by_hand(content: bytes, *some: tuple[Edit, ...]) -> bytes:
    """The content with these edits, made one by one from the end; shared imports are inserted once."""
    own = {(edit.start, edit.stop, 1, edit.new) for edits in some for edit in edits if not edit.is_import}
    imports = {
        (edit.start, edit.stop, 0, line)
        for edits in some
        for edit in edits
        if edit.is_import
        for line in edit.new.splitlines(keepends=True)
    }
    for start, stop, _, new in sorted(own | imports, reverse=True):
        content = content[:start] + new + content[stop:]
    return content


@pytest.mark.parametrize("releases", [("1.7.4", "3.3.0"), long(RELEASES)], ids=["a sample", "every release"])
def test_two_patches_of_one_function_combine(releases: Sequence[str]) -> None:
    done = set()
    pairs = set()
    for release in releases:
        for file, content, rewrites in rewrites_of(release):
            version = (file, content, tuple(sorted(rewrites)), tuple(rewrite.changes for rewrite in rewrites.values()))
            if version in done:
                continue
            done.add(version)
            edits = edits_in(content, rewrites)
            single = {each: by_hand(content, own) for each, own in edits.items()}
            for one, other, function in sharing(content, edits):
                pairs.add((one, other))
                both = apply_edits(content, {one: edits[one], other: edits[other]})
                assert both == by_hand(content, edits[one], edits[other]), (
                    f"{one}, {other}: {release} {file} {function}"
                )
                for result in (both, single[one], single[other]):
                    compile(result, file, "exec")
                assert both not in single.values(), f"{one}, {other}: an edit of one had no effect in {release} {file}"
    assert pairs


@pytest.mark.ddp
@pytest.mark.long
def test_two_patches_of_one_function_pass_verify_together(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    """Each pair in the newest release, applied with its requirements only; all in one launch."""
    catalog = the_catalog()
    found = inspect_install(find_install(None, released(NEWEST)), catalog)
    ids = sorted({(pair.one, pair.other) for pair in pairs_in(NEWEST)})
    trees, cases = {}, []
    for pair in ids:
        request = ProofRequest(catalog.selection(pair), "patched", allow_modified=True)
        fits = [fit for fit in agenda_for(found, request).cases if trains_patched_source(fit)]
        name = "+".join(pair)
        for fit in fits:
            applied = tuple(sorted({*catalog.with_required(pair), *fit.requires}))
            cases.append(for_pair(fit, f"{name}: {fit.id}", applied))
            if cases[-1].tree not in trees:
                files = original_with(found, frozenset(applied), allow_modified=True)
                folder = tmp_path / str(len(trees))
                trees[cases[-1].tree] = build_overlay(found.install.package, folder, files)
    assert cases
    report = run_proof(training_env, cases, trees)
    assert [result.id for result in report.cases if not result.ok] == []


def trains_patched_source(fit: ProofCase) -> bool:
    """Whether all ranks train the patched source."""
    return fit.patch is not None and fit.source == "patched" and fit.strategy == "strict-ddp"


def for_pair(fit: ProofCase, name: str, applied: tuple[str, ...]) -> ProofCase:
    """The fit on the originals with only these patches, and without a reference fit."""
    return replace(fit, id=name, like=None, requires=applied)
