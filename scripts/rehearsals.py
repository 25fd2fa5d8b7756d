"""Rehearses scripts as users write them, released and patched, and writes the tables of docs/results/rehearsals.md.

The scripts lie in tests/rehearsals/scripts. A run of some of them keeps the rows that the page has of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from releases import CACHE, unpack

from nfpatch.console import pluralize

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests" / "rehearsals" / "scripts"
PAGE = ROOT / "docs" / "results" / "rehearsals.md"
RELEASES = ("1.5.0", "1.7.4", "2.0.1", "3.3.0")
SOURCES = ("released", "patched")


@dataclass(frozen=True)
class Subject:
    """A script with its arguments, and the releases that it is rehearsed on.

    `not_run` says of some of them why they cannot run it. `own_fault` is what the script itself does wrong, which no
    patch mends: then the patched source has to show it.
    """

    arguments: tuple[str, ...]
    kind: str = ""
    releases: tuple[str, ...] = RELEASES
    not_run: dict[str, str] = field(default_factory=dict)
    own_fault: str = ""

    @property
    def name(self) -> str:
        """What stands behind `nfpatch rehearse`."""
        return " ".join(self.arguments)


def of_its_time(release: str, kind: str, *arguments: str, own_fault: str = "") -> Subject:
    """A script that is rehearsed on one release."""
    return Subject(arguments, kind, (release,), own_fault=own_fault)


# After the README and the tutorials
TUTORIALS = (
    Subject(("nhits_nbeats.py",)),
    Subject(("tft_static.py",)),
    Subject(("cross_validation.py",)),
    Subject(("auto_nhits_optuna.py",), not_run={"1.5.0": "knows no Optuna"}),
    Subject(("hint.py",)),
    Subject(("argparse_script.py", "--model", "NBEATS", "--horizon", "6")),
    Subject(("yaml_project/yaml_config.py",)),
    Subject(("loggers.py",)),
    Subject(("checkpoint_resume.py",)),
    Subject(("-m", "pipeline", "--horizon", "6")),
)
# After public repositories and issues
REPOSITORIES = (
    of_its_time("1.5.0", "`model.fit` on a `TimeSeriesDataset`", "dataset_fit.py"),
    of_its_time("1.6.1", "a process for each model", "subprocess_per_model.py"),
    of_its_time("1.6.4", "a class around NeuralForecast", "wrapper_class.py"),
    of_its_time("1.7.4", "a loop over models with try and except", "model_loop.py"),
    of_its_time("1.7.5", "HINT with each reconciliation", "hint_mintrace.py"),
    of_its_time("1.7.7", "a panel of polars", "polars_panel.py"),
    of_its_time(
        "2.0.0",
        "a notebook exported to a script",
        "notebook_export.py",
        own_fault="draws its sample of series without a seed",
    ),
    of_its_time("2.0.1", 'a loss of its own, `strategy="ddp"`', "own_loss.py"),
    of_its_time(
        "2.0.1",
        "a benchmark with a folder for each run",
        "benchmark_folders.py",
        own_fault="makes each folder in a try, which one rank leaves by the except",
    ),
    of_its_time(
        "3.0.2",
        "callbacks of its own",
        "trainer_callbacks.py",
        own_fault="stops the training of a rank by the loss of that rank",
    ),
    of_its_time("3.1.4", "Hydra", "hydra_app/main.py"),
    of_its_time("3.1.7", "a model class of its own", "own_model.py"),
    of_its_time("3.1.9", "mlflow", "mlflow_tracking.py"),
    of_its_time("3.2.2", "folders of parquet files", "parquet_folders.py"),
    of_its_time("3.3.0", "conformal intervals", "conformal.py"),
)
SUBJECTS = (*TUTORIALS, *REPOSITORIES)
ALL_RELEASES = sorted(
    {release for subject in SUBJECTS for release in subject.releases},
    key=lambda release: [int(part) for part in release.split(".")],
)
HEADING = """# Ordinary scripts, rehearsed

Written by `make rehearsals`: scripts ([tests/rehearsals/scripts](../../tests/rehearsals/scripts)) by `nfpatch rehearse`
on two processes, on the released and on the patched source. None of them mentions nfpatch. A cell names the calls that
differ from one process, and the patches that the rehearsal names for them.

{stack}.
`TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1` was set, without which this torch does not load models saved by releases before
2.0. TFT of 2.0.1 with static features fails in one process too.

## After the README and the tutorials

| script | release | released | patched |
|---|---|---|---|
"""
REPOSITORIES_HEADING = """
## After public repositories and issues

Each on a release of its time; none is copied. Where the script itself is at fault, the patched source shows that too.

| script | release | kind, and its own fault | released | patched |
|---|---|---|---|---|
"""
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<release>[^ |]+) \|.*$", re.MULTILINE)
STACK = re.compile(r"torch \S+, Lightning\s\S+, Python [\d.]*\d")


def rehearsed(subject: Subject, release: str, python: Path, source: str) -> dict[str, Any]:
    """The JSON document of one rehearsal, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="nfpatch-scripts-") as folder:
        site = unpack(release, Path(folder) / "site")
        place = Path(folder) / "scripts"
        shutil.copytree(SCRIPTS, place)
        where = ("--python", str(python), "--site-packages", str(site), "--source", source, "--timeout", "900")
        command = [sys.executable, "-m", "nfpatch", "rehearse", *where, "--json", *subject.arguments]
        # without the PYTHONPATH of `make`: a script has none
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        done = subprocess.run(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def in_words(document: dict[str, Any]) -> str:
    """The result of a rehearsal, for a cell of the table."""
    if "error" in document:
        return f"not run: {document['error'].splitlines()[0]}"
    if document["ok"]:
        return f"as in one process ({pluralize(len(document['stages']), 'call', 'calls')})"
    findings = [
        f"`{stage['call'].rpartition('.')[2]}`, line {stage['line']}: {stage['outcome']} ({remedy_for(stage)})"
        for stage in document["stages"]
        if not stage["ok"]
    ]
    return "; ".join(findings) or f"ended with exit code {document['exit_code']}: {document['ended'] or 'by itself'}"


def remedy_for(stage: dict[str, Any]) -> str:
    """What the finding says to do."""
    if stage["patches"]:
        return ", ".join(stage["patches"])
    if is_refused(stage):
        return "one process as well"
    return "a change to the script" if stage.get("remedy") else "no patch named"


def is_refused(stage: dict[str, Any]) -> bool:
    """Whether one process is refused the call as well."""
    return bool(stage.get("refused_alone", "one process is refused as well" in str(stage["detail"])))


def is_as_expected(subject: Subject, patched: dict[str, Any]) -> bool:
    """Whether the patched source shows no fault but the script's own, and what one process is refused."""
    if "error" in patched:
        return False
    wrong = [stage for stage in patched["stages"] if not stage["ok"]]
    if subject.own_fault:
        return bool(wrong) and not any(stage["patches"] for stage in wrong)
    return patched["ok"] or (bool(wrong) and all(map(is_refused, wrong)))


def rows_of_page(page: Path) -> dict[tuple[str, str], str]:
    """The rows that an earlier run has written, by script and release."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return {(row["name"], row["release"]): row[0] for row in ROW.finditer(text)}


def stack_of_page(page: Path) -> str:
    """The versions that an earlier run has recorded."""
    recorded = STACK.search(page.read_text(encoding="utf-8")) if page.exists() else None
    return recorded[0] if recorded else "versions that are not known"


def written(rows: dict[tuple[str, str], str], stack: str) -> str:
    """The page with these rows."""

    def table(subjects: tuple[Subject, ...]) -> Iterator[str]:
        places = [(subject.name, release) for release in ALL_RELEASES for subject in subjects]
        return (f"{rows[place]}\n" for place in places if place in rows)

    return "".join([HEADING.format(stack=stack), *table(TUTORIALS), REPOSITORIES_HEADING, *table(REPOSITORIES)])


def row_of(subject: Subject, release: str, results: list[str]) -> str:
    """A row of the page."""
    kind = f"{subject.kind}; {subject.own_fault}" if subject.own_fault else subject.kind
    cells = [f"`{subject.name}`", release, *([kind] if kind else []), *results]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def main() -> int:
    """Rehearse all, or what is named, write the page; exit code 1 if a patched script is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", default=ALL_RELEASES)
    parser.add_argument("--python", type=Path, default=CACHE / "rehearsals" / "bin" / "python")
    parser.add_argument("--script", default="", help="only those with this in their name")
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--documents", type=Path, help="a folder for the JSON document of each rehearsal")
    arguments = parser.parse_args()
    rows = rows_of_page(arguments.output)
    stack = stack_of_page(arguments.output)
    failed = 0
    for release in arguments.releases:
        for subject in SUBJECTS:
            if release not in subject.releases or arguments.script not in subject.name:
                continue
            results = [subject.not_run.get(release, ""), ""]
            if release not in subject.not_run:
                print(f"== {release} {subject.name}", file=sys.stderr, flush=True)
                python = arguments.python.absolute()
                documents = {source: rehearsed(subject, release, python, source) for source in SOURCES}
                if arguments.documents is not None:
                    for source, document in documents.items():
                        file = arguments.documents / f"{subject.name.replace('/', '_')}-{release}-{source}.json"
                        file.write_text(json.dumps(document, indent=1), encoding="utf-8")
                results = [in_words(documents[source]) for source in SOURCES]
                if not is_as_expected(subject, documents["patched"]):
                    failed += 1
                    print(f"   not as expected: {results[-1]}", file=sys.stderr, flush=True)
                if "torch" in documents["patched"]:
                    stack = "torch {torch}, Lightning {lightning}, Python {python}".format(**documents["patched"])
            rows[subject.name, release] = row_of(subject, release, results)
            arguments.output.write_text(written(rows, stack), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
