"""Audits every model of every release, as released and patched: docs/results/matrix.json.gz.

A model whose file and cells are the same in several releases is audited in only one of them. The released source is
trained in one process for each cell. The patched source is trained again for the cells with unused parameters, and for
all cells of a model whose file is patched. In addition, DDP trains in two processes the first cell of each model that
trains, and for a patched file the cells with default options that had unused parameters. Results that
docs/results/matrix.json.gz already has are not measured again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matrix import needs_old_stack
from releases import CACHE, RELEASES, unpack

from nfpatch.audit.models import models_of
from nfpatch.audit.run import AuditAgenda, Cell, agenda_for, run_audit
from nfpatch.catalog import Case, Catalog, load_catalog
from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.find import find_install
from nfpatch.patching.operations import apply

DATA = Path(__file__).resolve().parent.parent / "docs" / "results" / "matrix.json.gz"
TIMEOUT_SECONDS = 3600.0

# The results of the cells of a model: {clean: number, dead: {unused parameters: cells}, refused: {reason: cells},
# error: {reason: cells}}; "refused" are cells that the release itself rejects.
Tally = dict[str, Any]
# A model file: {model, sha256, patched_sha256, releases, stack, patches, released: its tally, patched: likewise, ddp:
# the number of cells of `patched` that strict DDP trained}.
Run = dict[str, Any]
Outcomes = dict[str, Cell]

KINDS = ("dead", "refused", "error")


def audited(site: Path, python: Path, cells: Sequence[Case], ddp: bool = False) -> tuple[dict[str, Outcomes], str]:
    """The results of these cells with the release in this folder, by model and configuration, and the versions used."""
    print(f"   {len(cells)} cells{' by strict DDP' if ddp else ''}", file=sys.stderr, flush=True)
    outcomes: dict[str, Outcomes] = {cell.model: {} for cell in cells}
    if not cells:
        return outcomes, ""
    try:
        agenda = AuditAgenda(tuple(cells), unknown_options=())
        report = run_audit(agenda, find_install(python, site), ddp, TIMEOUT_SECONDS)
    except InstallEnvironmentError as error:  # none of them can be trained
        for cell in cells:
            outcomes[cell.model][cell.config] = Cell(cell, "error", (), str(error), False, True, 0.0)
        return outcomes, ""
    for found in report.cells:
        outcomes[found.case.model][found.case.config] = found
    return outcomes, str(report.stack)


def tally_of(outcomes: Outcomes, site: Path) -> Tally:
    """The results of one model as they are stored."""
    tally: Tally = {"clean": 0, **{kind: {} for kind in KINDS}}
    for config, cell in outcomes.items():
        if cell.outcome == "clean":
            tally["clean"] += 1
        elif cell.outcome == "unused":
            tally["dead"].setdefault(", ".join(sorted(cell.unused_parameters)), []).append(config)
        else:
            reasons = tally["refused" if cell.refused else "error"]
            reasons.setdefault(reason_of(cell.detail, site), []).append(config)
    return tally


def reason_of(detail: str, site: Path) -> str:
    """The first line of the error of a cell, without the rank and without folders of this machine."""
    line = detail.splitlines()[0] if detail else "no reason was given"
    return re.sub(r"^rank \d+: ", "", line).replace(f"{site}/", "")[:160]


def cells_in(tally: Tally, *kinds: str) -> list[str]:
    """The cells of these kinds."""
    return [cell for kind in kinds for cells in tally[kind].values() for cell in cells]


def measure(release: str, python: Path, runs: list[Run], catalog: Catalog) -> None:
    """Add the results of this release that the runs lack."""
    with tempfile.TemporaryDirectory(prefix="nfpatch-matrix-") as folder:
        released = unpack(release, Path(folder, "released"))
        patched = Path(folder, "patched")
        shutil.copytree(released, patched)
        apply(find_install(None, patched), catalog, catalog.patches)
        before, after = hashes_of(released), hashes_of(patched)
        all_cells = agenda_for(find_install(None, released)).cells
        sizes = Counter(cell.model for cell in all_cells)
        found = {model: run_of(runs, model, before[model], sizes[model]) for model in before}
        for run in runs:
            if run["model"] in found:
                run["releases"] = [other for other in run["releases"] if other != release]
        missing = []
        for model, known in found.items():
            if known is None or known["patched_sha256"] != after[model]:
                missing.append(model)
            else:
                known["releases"].append(release)
        if not missing:
            return
        outdated = {model: known for model, known in found.items() if model in missing and known is not None}
        cells = [cell for cell in all_cells if cell.model in missing]
        as_released, _ = audited(released, python, [cell for cell in cells if cell.model not in outdated])
        tallies = {model: tally_of(outcomes, released) for model, outcomes in as_released.items()}
        tallies.update({model: run["released"] for model, run in outdated.items()})
        is_patched = {cell.model: before[cell.model] != after[cell.model] for cell in cells}
        was_dead = [cell for cell in cells if cell.config in cells_in(tallies[cell.model], "dead")]
        again = [cell for cell in cells if is_patched[cell.model] or cell in was_dead]
        alone, _ = audited(patched, python, again)
        first = {cell.model: cell for cell in reversed(cells) if trains(cell, tallies)}
        ddp_cells = [
            cell
            for cell in cells
            if cell is first.get(cell.model) or (is_patched[cell.model] and cell in was_dead and "=" not in cell.config)
        ]
        together, stack = audited(patched, python, ddp_cells, ddp=True)
        for model in missing:
            runs[:] = [run for run in runs if run is not found[model]]
            ddp = together.get(model, {})
            as_patched = updated(updated(tallies[model], alone.get(model, {}), patched), ddp, patched)
            runs.append(
                {
                    "model": model,
                    "sha256": before[model],
                    "patched_sha256": after[model],
                    "releases": sorted({release, *outdated.get(model, {}).get("releases", ())}, key=RELEASES.index),
                    "stack": stack,
                    "patches": [p.id for p in catalog.patches if p.model == model and catalog.rewrites_for(p, release)],
                    "released": tallies[model],
                    "patched": as_patched,
                    "ddp": sum(cell.outcome == "clean" for cell in ddp.values()),
                }
            )


def hashes_of(site: Path) -> dict[str, str]:
    """SHA-256 (hex) of the file of each model that the release in this folder has."""
    package = site / "neuralforecast"
    return {model.name: hashlib.sha256(model.file.read_bytes()).hexdigest() for model in models_of(package)}


def run_of(runs: list[Run], model: str, sha256: str, size: int) -> Run | None:
    """The results of a model file with this number of cells, which also depends on files that models share."""
    wanted = (model, sha256, size)
    return next((run for run in runs if (run["model"], run["sha256"], size_of(run["released"])) == wanted), None)


def size_of(tally: Tally) -> int:
    """The number of cells."""
    return int(tally["clean"]) + len(cells_in(tally, *KINDS))


def trains(cell: Case, tallies: dict[str, Tally]) -> bool:
    """Whether the cell trains in one process, with unused parameters or without."""
    return cell.config not in cells_in(tallies[cell.model], "refused", "error")


def updated(tally: Tally, outcomes: Outcomes, site: Path) -> Tally:
    """The tally, updated with the results of these cells."""
    result = tally_of(outcomes, site)
    result["clean"] += tally["clean"] - len(outcomes) + sum(cell in outcomes for cell in cells_in(tally, *KINDS))
    for kind in KINDS:
        for words, cells in tally[kind].items():
            if left := [cell for cell in cells if cell not in outcomes]:
                result[kind].setdefault(words, []).extend(left)
    return result


def read_runs() -> list[Run]:
    """The results so far."""
    runs: list[Run] = json.loads(gzip.decompress(DATA.read_bytes())) if DATA.exists() else []
    return runs


def write(runs: list[Run]) -> None:
    """Write the data, compressed, because a diff of 18000 lines is of no use. models.md is made from it."""
    runs[:] = [run for run in runs if run["releases"]]
    runs.sort(key=lambda run: (run["model"].lower(), RELEASES.index(run["releases"][0])))
    for run in runs:
        run["releases"].sort(key=RELEASES.index)
    text = (json.dumps(runs, indent=1) + "\n").encode()
    if not DATA.exists() or gzip.decompress(DATA.read_bytes()) != text:  # zlib versions compress differently
        DATA.write_bytes(gzip.compress(text, mtime=0))


def main() -> int:
    """Measure missing results; exit code 1 if a patched cell has unused parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", default=RELEASES, help="only these (default: all)")
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--old-python", type=Path, help="the interpreter for releases up to 1.4.0; else they are left")
    parser.add_argument("--restart", action="store_true", help="discard the results in the file")
    arguments = parser.parse_args()
    runs = [] if arguments.restart else read_runs()
    catalog = load_catalog()
    for release in arguments.releases:
        python = arguments.old_python if needs_old_stack(release) else arguments.python
        if python is not None:
            print(f"== {release}", file=sys.stderr, flush=True)
            measure(release, python, runs, catalog)
            write(runs)
    return 1 if any(run["patched"]["dead"] for run in runs) else 0


if __name__ == "__main__":
    raise SystemExit(main())
