"""Measure nfpatch's commands against bare imports and against other patching tools; `--help` shows the options.

Every command is a real process. Each round runs all of them, and a reference right before each command that is compared
with it, so that other load on the machine affects both. Exit code 1: a limit was exceeded, nfpatch left files, or a
command imported a module that it must not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from subjects import (
    CLICK,
    LIBCST,
    P12Y,
    PATCHES,
    REFERENCES,
    TRAINING,
    VENV_PATCHER,
    NotRun,
    Row,
    Subject,
    everything_of,
    nfpatch_subject,
    p12y_subject,
    venv_patcher_subject,
)

from nfpatch.catalog import load_catalog

HEAVY = ("neuralforecast", "torch", "libcst")
RELEASES = ("1.7.4", "3.3.0")  # the last that needs both basic patches, and the newest


def measure(subjects: Sequence[Subject], rounds: int) -> dict[str, list[float]]:
    """The seconds of every row by its label; references are measured several times per round."""
    seconds: dict[str, list[float]] = {}
    references = {row.label: row for row in REFERENCES}
    for number in range(1, rounds + 1):
        print_progress(f"Round {number} of {rounds}")
        for subject in subjects:
            subject.restore()
        os.sync()  # so that no command's fsync waits for this copying
        for row in (row for subject in subjects for row in subject.rows):
            for turn in (references[row.reference], row) if row.reference in references else (row,):
                start = time.perf_counter()
                turn.run()
                seconds.setdefault(turn.label, []).append(time.perf_counter() - start)
    return seconds


def summary(row: Row, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A row of the table. The ratio is that of the medians."""
    times = seconds[row.label]
    ratio = median(times) / median(seconds[row.reference]) if row.reference else None
    ok = None if row.limit is None or ratio is None else ratio <= row.limit
    facts = {"reference": row.reference, "ratio": ratio, "limit": row.limit, "ok": ok}
    return {"command": row.label, "median": median(times), **facts, "seconds": times}


def imports_of(nfpatch: Subject) -> list[dict[str, Any]]:
    """The heavy modules that each command of nfpatch imports, and whether these are exactly the expected ones."""
    nfpatch.restore()
    status, which, apply, again, revert = nfpatch.rows
    listing = replace(status, label="nfpatch list", command=[*status.command[:-3], "list"])
    preview = replace(apply, label="nfpatch apply --dry-run", command=[*apply.command, "--dry-run"])
    found = []
    for row in (listing, status, which, preview, apply, again, revert):
        lines = row.run(PYTHONPROFILEIMPORTTIME="1").stderr.splitlines()
        modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
        heavy = [name for name in HEAVY if name in modules]
        expected = ["libcst"] if row in (preview, apply) else []
        found.append({"command": row.label, "imports": heavy, "ok": "click" in modules and heavy == expected})
    return found


def print_report(report: Mapping[str, Any]) -> None:
    """The tables, 88 columns wide."""
    short = {CLICK: "click", LIBCST: "click, libcst", None: ""}
    print("Python {python}, {cores} cores, {rounds} rounds, nfpatch run as `{run_as}`".format(**report))
    print("{patches} patches in the catalog\n".format(**report))
    print(f"{'command':<38}{'median s':>8}{'min s':>8}{'ratio':>7}  {'to':<15}{'limit':>5}")
    for row in report["rows"]:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        limit = f"{row['limit']:>5} {'ok' if row['ok'] else 'OVER'}" if row["limit"] else ""
        times = f"{row['median']:>8.3f}{min(row['seconds']):>8.3f}"
        reference = short.get(row["reference"], row["reference"])
        print(f"{row['command']:<38}{times}{ratio:>7}  {reference:<15}{limit}".rstrip())
    for name, reason in report["not_run"].items():
        print(f"{name}: not run: {reason}")
    print("\nimported")
    for entry in report["imports"]:
        names = ", ".join(entry["imports"]) or "none of " + ", ".join(HEAVY)
        print(f"{entry['command']:<30}{names:<40}{'ok' if entry['ok'] else 'NO'}")
    print("\nRECORD rows that are false after apply; what differs in site-packages at the end")
    for name, entry in report["trees"].items():
        title = f"{name:<26}{len(entry['false_record_rows'])} false; {'undone' if entry['has_undo'] else 'no undo'}: "
        for line in entry["left_behind"] or ["nothing"]:
            print(f"{title}{line}")
            title = " " * len(title)


def print_progress(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure and print; exit code 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(description="Measure nfpatch's commands.")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--env", type=Path, default=TRAINING, metavar="DIR", help="a venv that can import neuralforecast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    options = parser.parse_args()

    for reference in REFERENCES:  # the first run only fills caches, like `inspect` for the others
        reference.run()
    nfpatch = nfpatch_subject(patches=[*PATCHES.values()])
    subjects, trees, not_run = [nfpatch], {nfpatch.name: nfpatch.inspect()}, {}
    for release in RELEASES:
        subject = everything_of(release)
        trees[subject.name] = subject.inspect()
        subjects.append(subject)
    diff = json.loads(replace(nfpatch.rows[2], command=[*nfpatch.rows[2].command, "--dry-run", "--json"]).run().stdout)
    others = {P12Y: partial(p12y_subject, diff["diff"])}
    others[VENV_PATCHER] = partial(venv_patcher_subject, diff["diff"], options.env)
    for name, make in others.items():
        print_progress(f"Trying {name}")
        try:
            subject = make()
            trees[name] = subject.inspect()
            subjects.append(subject)
        except NotRun as reason:
            not_run[name] = str(reason)

    seconds = measure(subjects, options.rounds)
    rows = [summary(row, seconds) for row in (*REFERENCES, *(row for subject in subjects for row in subject.rows))]
    imports = imports_of(nfpatch)
    machine: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count(), "rounds": options.rounds}
    machine["patches"] = len(load_catalog().patches)
    machine["run_as"] = "python -m nfpatch" if nfpatch.rows[0].command[0] == sys.executable else "nfpatch"
    report = {**machine, "rows": rows, "not_run": not_run, "imports": imports, "trees": trees}
    print_report(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    kept = [row["ok"] is not False for row in rows] + [entry["ok"] for entry in imports]
    clean = [not tree["left_behind"] for name, tree in trees.items() if name.startswith("nfpatch")]
    return 0 if all(kept) and all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
