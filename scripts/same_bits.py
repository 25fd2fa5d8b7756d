"""Writes docs/results/same-bits.md: single-process trainings, released and patched, must be bit-identical.

Each configuration is trained with one seed in one process, with the source of a release, and with all patches that are
not opt-in: weights, losses, forecasts and the final states of the random generators must be equal. Models from which
patches remove layers are trained without these patches as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from releases import CACHE, unpack

from nfpatch.audit.cells import TRAINED_OTHERWISE, cells_of
from nfpatch.audit.models import losses_of, models_of
from nfpatch.audit.options import POINT
from nfpatch.catalog import Case, Catalog, load_catalog
from nfpatch.installs.find import find_install
from nfpatch.patching.operations import apply
from nfpatch.proof.prove import TRAVELLERS
from nfpatch.target import ENTRY
from nfpatch.target.events import CaseSpec, encode

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "same-bits.md"
FITS = Path(__file__).with_name("same_bits_fits.py")
RELEASES = ("1.5.0", "1.7.4", "2.0.1", "3.0.2", "3.3.0")
VAL_SIZE = 12
VALIDATE_EVERY = {"val_check_steps": 2}
SEARCH = Case("AutoNHITS", "search", options={"mlp_units": [[8, 8]] * 3}, releases=">=1.6.4")
TEXT = """# One process: the bits of the unpatched source

Written by `make same-bits`. Each model class is trained in one process from one seed, for four steps with two
validations, on the released source and on the patched one (all patches but the opt-in ones). These must be equal, bit
for bit: every weight and buffer, the losses of each step and validation, the forecasts, the states of the random number
generators after the fit, and for some models the results of `cross_validation`.

The configurations: no exogenous features, each kind and all of them with a point loss; none and all of them with a
quantile and a distribution loss; IQLoss, a mixture and other training options; and the cases of the patches for unused
parameters.

Each number counts the configurations that are equal. Two patches remove layers, as upstream did in 1.7.5 and 1.7.6;
where they apply, the second number is without them. A configuration that the release refuses must fail with the same
error on both sources, and is not counted. `torch.linalg.lstsq`, which initializes KAN, differs in the last bits from
process to process with its default driver, on the released source too; here another driver is set.

{table}

{configurations} configurations, {equal}. Python {python}, torch {torch}, Lightning {lightning}.
{exceptions}{untrained}"""


@dataclass(frozen=True)
class FitComparison:
    """The comparison of a configuration in one process, patched with released.

    `differences` names what differs: "weights", "forecasts", ...; `error` is the error that both raise.
    """

    release: str
    case: Case
    patches: str
    differences: tuple[str, ...]
    error: str = ""


def cases_of(package: Path, release: str, catalog: Catalog) -> dict[str, Case]:
    """The configurations of a release that are trained, by an id."""
    losses = losses_of(package)
    cases = [
        cell
        for model in models_of(package)
        for cell in cells_of(model, losses)
        if "=" not in cell.config
        if cell.loss == POINT or len(cell.exogenous) != 1 or cell.config.endswith(TRAINED_OTHERWISE)
    ]
    cases += [
        case
        for patch in catalog.patches
        if patch.group == "unused-parameters" and catalog.rewrites_for(patch, release)
        for case in patch.cases
        if case.is_possible_in(release)
    ]
    cases += [case for case in (*TRAVELLERS, SEARCH) if case.is_possible_in(release)]
    return {f"{case.model}, {case.config}": case for case in cases}


def specified(case: Case) -> dict[str, Any]:
    """A case in the format of the fits."""
    options: dict[str, Any] = dict(case.options)
    if case.model == "HINT":
        options["model"] = {**options["model"], **VALIDATE_EVERY}
    else:
        options = {**VALIDATE_EVERY, **options}
    spec = CaseSpec(
        id=f"{case.model}, {case.config}",
        model=case.model,
        loss=case.loss,
        tree="installed",
        exogenous=tuple(case.exogenous),
        options=options,
        strategy="single-process",
    )
    return {"case": encode(spec), "val_size": VAL_SIZE, "cross_validation": case in TRAVELLERS}


def fit_all(tree: Path, cases: Mapping[str, Case], python: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The results of the cases with the source in `tree`, by id. Raises RuntimeError if the interpreter fails."""
    folder.mkdir()
    specification, out, log = (folder / name for name in ("spec.json", "out.jsonl", "fits.log"))
    document = {
        "entry": str(ENTRY),
        "tree": str(tree),
        "out": str(out),
        "cases": {name: specified(case) for name, case in cases.items()},
    }
    specification.write_text(json.dumps(document))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as output:
        command = [python, FITS, specification]
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(log.read_text(errors="replace")[-3000:])
    results = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {result.pop("id"): result for result in results}


def compare_fits(
    release: str, case: Case, patches: str, released: Mapping[str, Any], patched: Mapping[str, Any]
) -> FitComparison:
    """Compare the results of the patched source with those of the released one."""
    differences = tuple(key for key in sorted({*released, *patched}) if released.get(key) != patched.get(key))
    return FitComparison(release, case, patches, differences, "" if differences else released.get("error", ""))


def compare(release: str, catalog: Catalog, python: Path, folder: Path) -> list[FitComparison]:
    """Train all configurations of a release with the released source and the patched one."""
    released = unpack(release, folder / "released")
    cases = cases_of(released / "neuralforecast", release, catalog)
    patches = [patch for patch in catalog.patches if not patch.opt_in]
    removing = [patch for patch in patches if patch.removes_parameters and catalog.rewrites_for(patch, release)]
    kept = {name: case for name, case in cases.items() if case.model in {patch.model for patch in removing}}
    trees = {"released": (released, cases), "all": (folder / "all", cases)}
    shutil.copytree(released, folder / "all")
    apply(find_install(None, folder / "all"), catalog, patches)
    if kept:
        trees["without"] = (folder / "without", kept)
        shutil.copytree(released, folder / "without")
        others = [patch for patch in patches if patch not in removing]
        apply(find_install(None, folder / "without"), catalog, others)
    with ThreadPoolExecutor(2) as pool:
        futures = {
            name: pool.submit(fit_all, tree, own, python, folder / f"fits-{name}")
            for name, (tree, own) in trees.items()
        }
        results = {name: future.result() for name, future in futures.items()}
    return [
        compare_fits(release, cases[name], patched, results["released"][name], result)
        for patched in ("all", "without")
        for name, result in results.get(patched, {}).items()
    ]


def exceptions_in(outcomes: Sequence[FitComparison]) -> dict[str, list[str]]:
    """The configurations, by release and model, that are equal only without the two patches."""
    equal_without = {
        (each.release, each.case.model, each.case.config)
        for each in outcomes
        if each.patches == "without" and not each.differences
    }
    found: dict[str, list[str]] = {}
    for each in outcomes:
        is_exception = (each.release, each.case.model, each.case.config) in equal_without
        if each.patches == "all" and each.differences and is_exception:
            found.setdefault(f"{each.case.model} of {each.release}", []).append(each.case.config)
    return found


def failures_in(outcomes: Sequence[FitComparison]) -> list[FitComparison]:
    """The differences that are not allowed."""
    exceptions = exceptions_in(outcomes)
    return [
        each
        for each in outcomes
        if each.differences and each.case.config not in exceptions.get(f"{each.case.model} of {each.release}", ())
    ]


def cell_of(model: str, release: str, outcomes: Sequence[FitComparison]) -> str:
    """The cell of the table for a model in a release."""
    own = [each for each in outcomes if (each.case.model, each.release) == (model, release) and not each.error]
    counts = []
    for patches in ("all", "without"):
        compared = [each for each in own if each.patches == patches]
        equal = sum(not each.differences for each in compared)
        if compared:
            counts.append(f"{equal} of {len(compared)}" if equal < len(compared) else str(equal))
    return " / ".join(counts)


def page_of(outcomes: Sequence[FitComparison], releases: Sequence[str], stack: Mapping[str, str]) -> str:
    """The text of docs/results/same-bits.md."""
    models = sorted({each.case.model for each in outcomes})
    cells = {(model, release): cell_of(model, release, outcomes) for model in models for release in releases}
    rows = [f"| model | {' | '.join(releases)} |", f"|---|{'---|' * len(releases)}"]
    rows += [f"| {model} | {' | '.join(cells[model, release] for release in releases)} |" for model in models]
    exceptions = [f"* {name}: {'; '.join(configs)}" for name, configs in sorted(exceptions_in(outcomes).items())]
    reasons: dict[str, str] = {}
    for each in outcomes:
        if each.error and not cells[each.case.model, each.release]:
            reasons.setdefault(f"{each.case.model} of {each.release}", each.error)
    compared = [each for each in outcomes if not each.error]
    failures = failures_in(outcomes)
    return TEXT.format(
        table="\n".join(rows),
        configurations=len({(each.release, each.case.model, each.case.config) for each in compared}),
        equal=f"**{len(failures)} of them differ**"
        if failures
        else "all equal but for these"
        if exceptions
        else "all equal",
        exceptions="\n".join(
            ["", "Different with the two patches, and equal without them:", "", *exceptions, ""] if exceptions else []
        ),
        untrained="\n".join(
            ["", "Not trained in this environment:", "", *(f"* {name}: {why}" for name, why in reasons.items()), ""]
        )
        if reasons
        else "",
        **stack,
    )


def stack_of(python: Path) -> dict[str, str]:
    """The versions of the interpreter and its libraries."""
    code = (
        "import json, platform; from importlib.metadata import version; "
        "print(json.dumps({'python': platform.python_version(), 'torch': version('torch'), "
        "'lightning': version('pytorch_lightning')}))"
    )
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)
    return found


def main() -> int:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", default=RELEASES)
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--print", action="store_true", help="print the page and leave the file alone")
    arguments = parser.parse_args()
    catalog = load_catalog()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="nfpatch-same-bits-") as name:
        for release in arguments.releases:
            (folder := Path(name, release)).mkdir()
            found = compare(release, catalog, arguments.python, folder)
            outcomes += found
            print(f"{release}: {len(found)} compared, {len(failures_in(found))} differ", file=sys.stderr, flush=True)
            for each in failures_in(found):
                print(f"  {each.case.model}, {each.case.config}: {', '.join(each.differences)}", file=sys.stderr)
    page = page_of(outcomes, arguments.releases, stack_of(arguments.python))
    if arguments.print:
        print(page)
    else:
        PAGE.write_text(page, encoding="utf-8")
    return 1 if failures_in(outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
