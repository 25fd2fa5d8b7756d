"""Measures how many of the patches that commits of neuralforecast need are applied to installs from git.

`python scripts/commits.py CLONE`: CLONE is a clone of Nixtla/neuralforecast, bare or not, which is only read. The
sample is every 12th commit of the main line from 1.5.0 on that changes the package, the newest one, and as many others
halfway between. Writes docs/results/commits.md; `--offset` and `--only` test other commits and write nothing.

A commit is between the release that its version names and the next one. It needs the patches that both need. If they
differ, it is treated like the one whose versions of the patched functions it has. If it has neither version, it needs
the patch if the later release does and a variant fits, or if the earlier one does and the fixed code is not there.
Opt-in patches are left out. Exits with 1 if less than 98 % are applied, if a patch is applied that is not needed, if a
patched file does not compile, or if `revert` does not restore the install.
"""

from __future__ import annotations

import argparse
import ast
import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from releases import RELEASES, read_member

from nfpatch.catalog import Catalog, Patch, load_catalog
from nfpatch.codemod import CodemodRefused, Rewrite
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile

URL = "https://github.com/Nixtla/neuralforecast"
PACKAGE = "neuralforecast/"
OLDEST = "v1.5.0"
STEP = 12
OFFSETS = (0, 6)
REQUIRED_SHARE = 0.98
PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "commits.md"
INTRODUCTION = """# Installs from git

Written by `make commits CLONE=DIR` from a clone of neuralforecast: commits of the main line between 1.5.0 and July
2026, every 12th that touches the package, installed as pip does and patched by one command, `nfpatch apply all
--allow-modified --keep-going`. A patch is needed if the commit has the bug. The patches for Spark are counted, opt-in
patches are not. All written files compile, and `nfpatch revert` restores every byte; the table names each exception.

"""
APPLY = ("apply", "all", "--allow-modified", "--keep-going")


class CommitResult(NamedTuple):
    """The result for one commit: ids of patches, and other problems."""

    needed: frozenset[str]
    applied: frozenset[str]
    problems: tuple[str, ...]

    @property
    def refused(self) -> list[str]:
        """The patches that are needed and were not applied."""
        return sorted(self.needed - self.applied)


def git(clone: Path, *arguments: str) -> bytes:
    """The output of a git command on the clone."""
    return subprocess.run(["git", *arguments], cwd=clone, stdout=subprocess.PIPE, check=True).stdout


def chosen_commits(clone: Path, offset: int, step: int) -> list[str]:
    """Every n-th commit of the main line that changes the package, oldest first; without an offset the newest too."""
    since = [*git(clone, "rev-parse", f"{OLDEST}^{{commit}}").decode().split()]
    since += git(clone, "rev-list", "--first-parent", "--reverse", f"{OLDEST}..HEAD", "--", PACKAGE).decode().split()
    last = since[-1:] if offset == 0 else []
    return [*dict.fromkeys([*since[offset::step], *last])]


def version_at(clone: Path, commit: str) -> str:
    """The version that pip would give an install of this commit."""
    found = re.search(rb'^__version__ = "([^"]+)"', git(clone, "show", f"{commit}:{PACKAGE}__init__.py"), re.MULTILINE)
    if found is None:
        found = re.search(rb'^version = "([^"]+)"', git(clone, "show", f"{commit}:pyproject.toml"), re.MULTILINE)
    assert found is not None, f"{commit} states no version"
    return found[1].decode()


def install(clone: Path, commit: str, version: str, site: Path) -> None:
    """Install a commit into `site` as `pip install git+URL@COMMIT` does."""
    archive = git(clone, "archive", f"--prefix={PACKAGE}", f"{commit}:{PACKAGE}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        members.extractall(site, filter="data")
    info = site / f"neuralforecast-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: neuralforecast\nVersion: {version}\n")
    origin = {"url": URL, "vcs_info": {"vcs": "git", "requested_revision": commit, "commit_id": commit}}
    (info / "direct_url.json").write_text(json.dumps(origin))
    rows = []
    for path in sorted(path for path in site.rglob("*") if path.is_file()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        rows.append((path.relative_to(site).as_posix(), f"sha256={digest}", path.stat().st_size))
    with (info / "RECORD").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([*rows, (f"{info.name}/RECORD", "", "")])


def needed_patches(catalog: Catalog, site: Path, version: str) -> frozenset[str]:
    """The patches that this source needs."""
    tree = {path.relative_to(site).as_posix(): path.read_bytes() for path in site.glob("neuralforecast/**/*.py")}
    after = next((other for other in RELEASES if _key(other) > _key(version)), RELEASES[-1])
    before = next(other for other in reversed(RELEASES) if _key(other) <= _key(version))
    return frozenset(
        patch.id for patch in catalog.patches if not patch.opt_in and _is_needed(catalog, patch, tree, (before, after))
    )


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _is_needed(catalog: Catalog, patch: Patch, tree: Mapping[str, bytes], around: tuple[str, str]) -> bool:
    needing = [bool(catalog.files_of(patch, release)) for release in around]
    if needing[0] == needing[1]:
        return needing[0]
    variant = catalog.rewrites_for(patch, around[0] if needing[0] else around[1])
    here = _functions(tree, variant)
    like = [_functions({file: read_member(release, file) for file in variant}, variant) == here for release in around]
    if any(like):
        return needing[like.index(True)]
    if needing[0]:  # upstream has fixed it between the two
        return not any(_fits(each, tree) for each in patch.unaffected_code.values())
    return any(_fits(each, tree) for each in patch.variants.values())


def _functions(tree: Mapping[str, bytes | None], variant: Mapping[str, Rewrite]) -> list[str]:
    """The code of the functions and classes that a variant changes, empty for missing ones."""
    found = []
    for file, rewrite in variant.items():
        for where in sorted({change.where for change in rewrite.changes}):
            try:
                node = SourceFile(tree.get(file) or b"").definition(where).node
                found.append(ast.dump(node))
            except CodemodRefused:
                found.append("")
    return found


def _fits(variant: Mapping[str, Rewrite], tree: Mapping[str, bytes]) -> bool:
    try:
        for file, rewrite in variant.items():
            edits_of(rewrite, SourceFile(tree[file]))
    except (CodemodRefused, KeyError):
        return False
    return True


def result_of(catalog: Catalog, clone: Path, commit: str, command: tuple[str, ...]) -> CommitResult:
    """Install a commit, patch it with one command, and revert that."""
    version = version_at(clone, commit)
    with tempfile.TemporaryDirectory(prefix="nfpatch-commit-") as folder:
        site = Path(folder, "site")
        install(clone, commit, version, site)
        needed = needed_patches(catalog, site, version)
        before = _contents(site)
        document = json.loads(_nfpatch(*command, "--json", "--site-packages", str(site)))
        applied = frozenset(patch["id"] for patch in document.get("patches", ()) if patch["state"] == "applied")
        problems = [f"{patch_id} is not needed" for patch_id in sorted(applied - needed)]
        for path in site.glob("neuralforecast/**/*.py"):
            try:
                compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
            except SyntaxError as error:
                problems.append(f"{path.name}: {error}")
        _nfpatch("revert", "--site-packages", str(site))
        problems += ["revert left a trace"] if _contents(site) != before else []
    return CommitResult(needed, applied, tuple(problems))


def _nfpatch(*arguments: str) -> str:
    command = [sys.executable, "-m", "nfpatch", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(results: Sequence[tuple[str, str, str, CommitResult]]) -> str:
    """The table of commits, each with its date, version and result."""
    rows = []
    for commit, date, version, result in results:
        done = result.needed & result.applied
        left_out = ", ".join([*result.refused, *result.problems]) if done else "all"
        rows.append(f"| {commit[:8]} | {date} | {version} | {len(result.needed)} | {len(done)} | {left_out} |\n")
    return "| commit | date | version | needed | applied | left out |\n|---|---|---|---|---|---|\n" + "".join(rows)


def shares_of(results: Sequence[tuple[str, str, str, CommitResult]]) -> tuple[int, int, int]:
    """The numbers of needed patches, of those that were applied, and of other problems."""
    own = [result for *_, result in results]
    done = sum(len(result.needed & result.applied) for result in own)
    return sum(len(result.needed) for result in own), done, sum(len(result.problems) for result in own)


def page_of(results: Mapping[int, Sequence[tuple[str, str, str, CommitResult]]]) -> str:
    """The page, with a table for each offset."""
    tables = []
    for offset, own in results.items():
        needed, done, _ = shares_of(own)
        share = f"{done} of {needed} patches that are needed are applied ({done / needed:.1%})."
        tables.append(f"## {len(own)} commits, beginning with number {offset} after 1.5.0\n\n{share}\n\n{rows_of(own)}")
    return INTRODUCTION + "\n".join(tables)


def main() -> int:
    """Test the commits; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clone", type=Path, help="a clone of Nixtla/neuralforecast")
    parser.add_argument("--offset", type=int, action="append", metavar="N", help="begin with this commit after 1.5.0")
    parser.add_argument("--only", nargs="*", default=(), metavar="COMMIT", help="look at these commits instead")
    parser.add_argument("--apply", default=" ".join(APPLY), metavar="WORDS", help="the command that patches them")
    options = parser.parse_args()
    catalog = load_catalog()
    results: dict[int, list[tuple[str, str, str, CommitResult]]] = {}
    for offset in [0] if options.only else options.offset or OFFSETS:
        results[offset] = []
        for commit in options.only or chosen_commits(options.clone, offset, STEP):
            result = result_of(catalog, options.clone, commit, tuple(options.apply.split()))
            date = git(options.clone, "show", "--no-patch", "--format=%cs", commit).decode().strip()
            results[offset].append((commit, date, version_at(options.clone, commit), result))
            print(commit[:8], *shares_of(results[offset]), file=sys.stderr, flush=True)
        print(rows_of(results[offset]))
    if not (options.only or options.offset):
        PAGE.write_text(page_of(results), encoding="utf-8")
        print(f"wrote {PAGE}")
    sums = [shares_of(own) for own in results.values()]
    return 1 if any(wrong or done < REQUIRED_SHARE * needed for needed, done, wrong in sums) else 0


if __name__ == "__main__":
    raise SystemExit(main())
