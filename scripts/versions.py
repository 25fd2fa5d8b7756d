"""Runs the quick tests on every supported Python that is found, with the newest and the lowest dependencies.

The table goes into docs/results/versions.md. With --lowest only the running Python is tested, with the lowest
dependencies, and nothing is written, as in CI. Environments are in .cache/versions and are re-created each time.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from releases import CACHE

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "versions.md"
SUPPORTED = tuple((3, minor) for minor in range(9, 14))
TOOLS = ("pytest-xdist",)
HEADING = """# Python versions and dependencies

Written by `make versions`, on Linux: the quick tests (those of a bare `pytest`) on every supported Python, with the
newest dependencies that pip finds for it, and with the lowest that `pyproject.toml` allows, all four at once.
`make test` runs them with the lowest on its own Python. *Not run*: this Python was not installed.

| Python | dependencies | {names} | outcome |
|---|---|{dashes}---|
"""


@functools.cache
def interpreters() -> dict[tuple[int, int], Path]:
    """The Pythons from 3.7 on of this machine, one per minor version; for its own version the running one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = {sys.version_info[:2]: Path(sys.executable)}
    for version, names in {
        (3, minor): [*pyenv.glob(f"versions/3.{minor}.*/bin/python"), shutil.which(f"python3.{minor}")]
        for minor in range(7, 20)
    }.items():
        for name in names:
            if name is not None and version not in found:
                question = "import sys; print(sys.executable)"
                answer = subprocess.run([name, "-c", question], capture_output=True, text=True, check=False)
                if answer.returncode == 0:  # a pyenv shim of an inactive version fails
                    found[version] = Path(answer.stdout.strip())
    return {version: found[version] for version in sorted(found)}


def dependencies(version: tuple[int, int]) -> list[Requirement]:
    """The requirements of nfpatch on this Python, without extras."""
    on = {"python_version": "{}.{}".format(*version), "extra": ""}
    return [each for each in map(Requirement, requires("nfpatch") or ()) if not each.marker or each.marker.evaluate(on)]


def row_of(version: tuple[int, int], interpreter: Path, lowest: bool) -> tuple[str, bool]:
    """The row of the table for one environment, and whether its tests passed."""
    kind = "lowest" if lowest else "newest"
    name = "{}.{}".format(*version)
    folder = CACHE / "versions" / f"{name}-{kind}"
    python = folder / "bin" / "python"
    needed = dependencies(version)
    pins = [f"{each.name}{str(each.specifier).replace('>=', '==')}" for each in needed] if lowest else []
    print(f"== Python {name}, {kind} dependencies", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    install = ["install", "--quiet", "--only-binary", ":all:", *pins, *TOOLS, "-e", f"{ROOT}[test]"]
    subprocess.run([*pip, *install], check=True)
    listed = subprocess.run([*pip, "list", "--format", "json"], stdout=subprocess.PIPE, check=True)
    versions = {each["name"].lower(): each["version"] for each in json.loads(listed.stdout)}
    command = [str(python), "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    outcome = done.stdout.strip().splitlines()[-1].strip("= ").partition(" in ")[0]
    print(done.stdout if done.returncode else f"   {outcome}", file=sys.stderr, flush=True)
    found = " | ".join(versions[each.name] for each in needed)
    return f"| {name} | {kind} | {found} | {outcome} |", done.returncode == 0


def not_run(version: tuple[int, int], lowest: bool) -> str:
    """The row of an environment that was not created, for example without such a Python."""
    empty = "| " * len(dependencies(version))
    return f"| {version[0]}.{version[1]} | {'lowest' if lowest else 'newest'} {empty}| not run |"


def page_of(rows: list[str]) -> str:
    """The text of docs/results/versions.md."""
    names = [each.name for each in dependencies(sys.version_info[:2])]
    heading = HEADING.format(names=" | ".join(names), dashes="---|" * len(names))
    return heading + "\n".join(rows) + "\n"


def main() -> int:
    """Run them all and write the page; exit code 1 if a test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lowest", action="store_true", help="only this Python, with the lowest; write nothing")
    if parser.parse_args().lowest:
        return 0 if row_of(sys.version_info[:2], Path(sys.executable), lowest=True)[1] else 1
    found = {version: path for version, path in interpreters().items() if version in SUPPORTED}
    rows = {(version, lowest): not_run(version, lowest) for version in SUPPORTED for lowest in (False, True)}
    failed = 0
    for version, lowest in [key for key in rows if key[0] in found]:
        rows[version, lowest], is_well = row_of(version, found[version], lowest)
        failed += not is_well
        PAGE.write_text(page_of([*rows.values()]), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
