"""Runs mutmut over the modules that decide about users' files and about proofs, and writes docs/results/mutants.md.

What is mutated, and the tests that judge it, stand in pyproject.toml, [tool.mutmut]. Each survivor has its reason here;
one without, and a reason that no survivor needs any more, end the run with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "mutants.md"
MUTMUT = (sys.executable, "-m", "mutmut")
# mutmut calls mypy by its name
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
# Of those that mypy lets pass, how many in a hundred the tests have to find in each file
FEWEST_KILLED = 95
# In mutmut's words, what came of a mutant that mypy, or a test, has found; one that never ends is found as well
REFUSED = "caught by type check"
FOUND = ("killed", "timeout", "segfault")
HEADING = """# Mutation tests

Written by `make mutants`: [mutmut](https://mutmut.readthedocs.io) makes one change at a time in the modules that
decide about a user's files and about a proof, and runs the tests that reach it. mypy finds some of these mutants, in
CI too; of the others the tests must find {fewest} in 100 in each file. `scripts/mutants.py` has the reason for each
survivor. mutmut changes only functions without decorators, and no triple-quoted strings.

| file | mutants | found by mypy | found by the tests | survivors |
|---|---|---|---|---|
"""


class Mutant(NamedTuple):
    """One change: the dotted name of the function, the changed lines as they are, and as mutmut has made them."""

    function: str
    old: str
    new: str


# By function and changed line: why no test finds it.
SURVIVORS: dict[Mutant, str] = {
    Mutant(
        "target.outcomes.is_refusal",
        'statement = (frame.line or "").partition(" ")[0]',
        'statement = (frame.line or "XXXX").partition(" ")[0]',
    ): "Neither is a statement that raises",
    Mutant(
        "engine.logs.place_of",
        'outer = next((f"{without_site_packages(file)}:{line} in {name}" '
        'for file, line, name in frames if _tells(file)), "")',
        'outer = next((f"{without_site_packages(file)}:{line} in {name}" '
        "for file, line, name in frames if _tells(file)), None)",
    ): "Both are no place",
    Mutant(
        "installs.record.row_for",
        'digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()',
        'digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"XX=XX").decode()',
    ): "The last character of a SHA-256 in base64 is of four bits, and never an X",
    Mutant(
        "patching.steps._bookkeeping",
        'original = read_original(install, record_name, before.record_sha256 or "")',
        'original = read_original(install, record_name, before.record_sha256 or "XXXX")',
    ): "Neither is a SHA-256",
    Mutant(
        "patching.steps._rows",
        "listed = {row[0] for row in record.parse(original_record, str(install.record))}",
        "listed = {row[0] for row in record.parse(original_record, str(None))}",
    ): "It names the file in errors, and what is parsed here has been parsed before",
}


def mutmut(*arguments: str) -> str:
    """What mutmut prints; it reads its configuration in the folder that it runs in."""
    return subprocess.run([*MUTMUT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def outcomes() -> Iterator[tuple[str, str]]:
    """The name of each mutant, and what became of it in mutmut's words."""
    for line in mutmut("results", "--all", "true").splitlines():
        name, separator, outcome = line.strip().rpartition(": ")
        if separator:
            yield name, outcome


def file_of(name: str) -> str:
    """The file of a mutant, as mutmut names it: nfpatch.patching.edits.x_joined__mutmut_3, ...xǁRankǁtake__mutmut_1."""
    return name.rpartition(".")[0].replace(".", "/") + ".py"


def shown(name: str) -> Mutant:
    """A mutant by the diff that mutmut shows of it."""
    changed: dict[str, list[str]] = {"-": [], "+": []}
    for line in mutmut("show", name).splitlines():
        if line[:1] in changed and not line.startswith(("---", "+++")):
            changed[line[0]].append(line[1:].strip())
    module, _, mangled = name.rpartition("__mutmut_")[0].rpartition(".")
    function = mangled[2:].replace("ǁ", ".")
    return Mutant(f"{module.removeprefix('nfpatch.')}.{function}", " ".join(changed["-"]), " ".join(changed["+"]))


def judged(ended: dict[str, Counter[str]], survivors: dict[Mutant, str]) -> list[str]:
    """What is wrong with the outcomes of the mutants by file, and with these survivors."""
    complaints = []
    for file, counted in ended.items():
        found, asked = found_of(counted)
        if 100 * found < FEWEST_KILLED * asked:
            complaints.append(f"{file}: the tests find {found} of {asked}")
    for each, outcome in survivors.items():
        if each not in SURVIVORS:
            complaints.append(f"{outcome}, without a reason: {each}")
    return complaints + [f"survives no more, and has a reason: {each}" for each in SURVIVORS if each not in survivors]


def found_of(counted: Counter[str]) -> tuple[int, int]:
    """How many mutants the tests have found, and of how many that mypy lets pass."""
    return sum(counted[outcome] for outcome in FOUND), counted.total() - counted[REFUSED]


def page_of(ended: dict[str, Counter[str]], survivors: dict[Mutant, str]) -> str:
    """docs/results/mutants.md."""
    lines = []
    for file, counted in [*ended.items(), ("all", sum(ended.values(), Counter()))]:
        found, asked = found_of(counted)
        lines.append(f"| {file} | {counted.total()} | {counted[REFUSED]} | {found} of {asked} | {asked - found} |")
    lines += ["", "## Survivors"]
    for reason in dict.fromkeys(SURVIVORS.get(each, "no reason yet") for each in survivors):
        lines += ["", f"{reason}:", ""]
        for each in survivors:
            if SURVIVORS.get(each, "no reason yet") == reason:
                lines += [f"- `{each.function}`", "", f"      - {each.old}", f"      + {each.new}"]
    return HEADING.format(fewest=FEWEST_KILLED) + "\n".join(lines) + "\n"


def main() -> int:
    """Run all mutants, write the page; exit code 1 where too many survive, or one without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", action="store_true", help="judge what the last run left, and run nothing")
    if not parser.parse_args().judge:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)  # a survivor of the last run is not tried again
        subprocess.run([*MUTMUT, "run"], cwd=ROOT, env=ENVIRONMENT, check=True)
    ended: dict[str, Counter[str]] = {}
    survivors: dict[Mutant, str] = {}
    for name, outcome in outcomes():
        ended.setdefault(file_of(name), Counter())[outcome] += 1
        if outcome not in (*FOUND, REFUSED):
            survivors[shown(name)] = outcome
    PAGE.write_text(page_of(ended, survivors), encoding="utf-8")
    complaints = judged(ended, survivors)
    print("\n".join(complaints) or f"{PAGE.relative_to(ROOT)} is written; every survivor has its reason")
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
