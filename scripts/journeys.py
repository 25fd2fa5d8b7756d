"""Runs the stages of an ordinary script for every model of every release: docs/results/journeys.json.

Two processes (gloo, CPU, torchrun), with the released and with the patched source. The released source runs the script
up to `predict`, whose result already differs from that of a single process; the patched source runs all of `STAGES`.
Each Auto class runs a search of two trials of different shapes: through Optuna if neuralforecast supports it, else,
patched only, through a real ray (unpatched, its trials crash or hang, as `verify` shows). Results that the file already
has are not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audit_matrix import read_runs
from matrix import needs_old_stack
from releases import CACHE, RELEASES, unpack

from nfpatch.audit.run import agenda_for
from nfpatch.catalog import Case, load_catalog, specifier_contains
from nfpatch.engine.sources import Source
from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.find import find_install
from nfpatch.patching.operations import apply
from nfpatch.proof.runner import RunOptions, run_proof
from nfpatch.proof.verdict import CaseResult, ProofCase

DATA = Path(__file__).resolve().parent.parent / "docs" / "results" / "journeys.json"
STAGES = ("validate", "predict", "cross-validation", "load", "refit")
TIMEOUT_SECONDS = 1800.0
# A search does not run the stages: its result is a model like any other.
SEARCHES_THROUGH_OPTUNA = ">=1.6.4"
THROUGH_RAY_ALONE = ("AutoHINT",)
STEPS = 4  # with fewer, the order of three series may be equal by chance


# By release, model, and "released" or "patched": {"ends": "well", "otherwise", or "alone" if a
# single process fails, too, so that the model proves nothing; "words": the first stage that does not end well, and
# how}.
Journeys = dict[str, dict[str, dict[str, dict[str, str]]]]


def first_configurations(site: Path) -> list[Case]:
    """The first configuration of each model that an audit would try and that trains."""
    install = find_install(None, site)
    runs = [run for run in read_runs() if install.version in run["releases"]]
    untrained = {
        (run["model"], config)
        for run in runs
        for kind in ("refused", "error")
        for configs in run["patched"][kind].values()
        for config in configs
    }
    chosen: dict[str, Case] = {}
    for cell in agenda_for(install).cells:
        if (cell.model, cell.config) not in untrained:
            chosen.setdefault(cell.model, cell)
    return list(chosen.values())


def searches_for(site: Path, configurations: list[Case], through_optuna: bool) -> list[Case]:
    """A search for each of these models with an Auto class: those through Optuna, or those only through ray."""
    exported = re.findall(r"'(Auto\w+)'", (site / "neuralforecast" / "auto.py").read_text(encoding="utf-8"))
    has_optuna = specifier_contains(SEARCHES_THROUGH_OPTUNA, find_install(None, site).version)
    searches = [each._replace(model=f"Auto{each.model}") for each in configurations]
    return [
        each
        for each in searches
        if each.model in exported and through_optuna == (has_optuna and each.model not in THROUGH_RAY_ALONE)
    ]


def journeys_in(
    released: Path,
    patched: Path,
    python: Path,
    configurations: list[Case],
    last_before: Sequence[str],
    stages: Sequence[str],
) -> dict[str, Any]:
    """The result of each model's script with the sources in these two folders; released, up to `last_before`."""
    before = [case_of(each, stage, "released") for each in configurations for stage in last_before]
    after = [case_of(each, stage, "installed") for each in configurations for stage in stages]
    install = find_install(python, patched)
    try:
        report = run_proof(
            python=install.python,
            cases=[*before, *after],
            trees={"released": released, "installed": patched},
            extra_path=install.extra_path,
            options=RunOptions(timeout=TIMEOUT_SECONDS, max_steps=STEPS, persistent=True),
        )
    except InstallEnvironmentError as error:
        nothing = {"ends": "alone", "words": str(error)}
        return {each.model: {"released": nothing, "patched": nothing} for each in configurations}
    journeys: dict[str, Any] = {}
    for each in configurations:
        own = [result for result in report.cases if result.model == each.model]
        by_source = {
            "released": ([result for result in own if result.source == "released"], released),
            "patched": ([result for result in own if result.source == "installed"], patched),
        }
        journeys[each.model] = {
            name: ending_of(results, site) for name, (results, site) in by_source.items() if results
        }
    return journeys


def case_of(configuration: Case, stage: str, source: Source) -> ProofCase:
    """The script of a model up to one stage."""
    name = f"{configuration.model}/{source}/{stage}"
    return ProofCase(name, None, configuration._replace(stage=stage), source, "pass", forecast=None)


def ending_of(results: list[CaseResult], site: Path) -> dict[str, str]:
    """The combined result of the stages of one model."""
    otherwise = [result for result in results if not result.ok]
    if otherwise:
        return {"ends": "otherwise", "words": words_of(otherwise[0], site)}
    alone = [result for result in results if result.refused_alone]
    words = "; ".join(words_of(result, site) for result in alone)
    return {"ends": "alone" if len(alone) == len(results) else "well", "words": words}


def words_of(result: CaseResult, site: Path) -> str:
    """The stage and the first line of its error, without the rank and without folders of this machine."""
    line = result.detail.partition("\n")[0]
    return f"{result.stage}: " + re.sub(r"^rank \d+: ", "", line).replace(f"{site}/", "")[:160]


def measure(release: str, python: Path, known: dict[str, Any]) -> dict[str, Any]:
    """The results of the scripts and searches of all models of a release; known results are not measured again."""
    with tempfile.TemporaryDirectory(prefix="nfpatch-journeys-") as folder:
        released, patched = unpack(release, Path(folder, "released")), Path(folder, "patched")
        models = first_configurations(released)
        through_optuna, through_ray = (searches_for(released, models, through) for through in (True, False))
        for cases, last_before, stages in (
            (models, ("predict",), STAGES),
            (through_optuna, ("search",), ("search",)),
            (through_ray, (), ("ray-search",)),
        ):
            missing = [case for case in cases if case.model not in known]
            if missing and not patched.exists():
                shutil.copytree(released, patched)
                catalog = load_catalog()
                apply(find_install(None, patched), catalog, catalog.patches)
            if missing:
                known = {**known, **journeys_in(released, patched, python, missing, last_before, stages)}
        return known


def read_journeys(file: Path = DATA) -> Journeys:
    """The results so far."""
    journeys: Journeys = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return journeys


def write(journeys: Journeys, file: Path) -> None:
    """Write a line for each release, oldest first."""
    lines = [f'"{each}": {json.dumps(journeys[each])}' for each in RELEASES if each in journeys]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> int:
    """Measure missing results; exit code 1 if a script on a patched release differs from a single process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("releases", nargs="*", default=RELEASES, help="only these (default: all)")
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--old-python", type=Path, help="the interpreter for releases up to 1.4.0; else they are left")
    parser.add_argument("--restart", action="store_true", help="discard the results in the file")
    parser.add_argument("--output", type=Path, default=DATA)
    arguments = parser.parse_args()
    journeys = {} if arguments.restart else read_journeys(arguments.output)
    for release in arguments.releases:
        python = arguments.old_python if needs_old_stack(release) else arguments.python
        if python is None:
            continue
        print(f"== {release}", file=sys.stderr, flush=True)
        journeys[release] = measure(release, python, journeys.get(release, {}))
        write(journeys, arguments.output)
    patched = [ends["patched"] for models in journeys.values() for ends in models.values()]
    return 1 if any(ending["ends"] == "otherwise" for ending in patched) else 0


if __name__ == "__main__":
    raise SystemExit(main())
