"""Proves the patches of every release that needs one: docs/results/proofs.json and, from it, matrix.md.

Releases that are not named keep their results. Each release is unpacked, and `nfpatch verify --preview` proves it with
the training environment. Releases up to 1.4.0 need Lightning 1.6.5: pass an interpreter with it as --old-python, else
they are left out. `--page` only writes the page again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from releases import CACHE, unpack

import nfpatch
from nfpatch.catalog import Catalog, Patch, load_catalog

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PAGE, DATA = RESULTS / "matrix.md", RESULTS / "proofs.json"
FIRST_RELEASE_ON_LIGHTNING_2 = (1, 5)
# One release of each line is proved with all launchers; Lightning 1.6.5 cannot fork
BY_EVERY_LAUNCHER = ("1.4.0", "1.5.0", "1.7.4", "2.0.1", "3.0.2", "3.1.9", "3.3.0")
TIMEOUT_SECONDS = 1200
# The columns of the table of patches: lines of releases, each with the prefixes of its releases
LINES = {
    "1.0 - 1.4": ("1.0.", "1.1.", "1.2.", "1.3.", "1.4."),
    "1.5 - 1.6": ("1.5.", "1.6."),
    "1.7": ("1.7.",),
    "2.0": ("2.0.",),
    "3.0": ("3.0.",),
    "3.1": ("3.1.",),
    "3.2": ("3.2.",),
    "3.3": ("3.3.",),
}
HEADING = """# What was proved, release by release

Written by `make matrix` from what it measured ([proofs.json](proofs.json)). Each release was proved by
`nfpatch verify all --preview`, with the opt-in patches, as its wheel has it: two processes, gloo, CPU
([what a proof shows](../concepts/proof.md)).

## By patch

In how many releases of a line a patch was proved, of those that need it. An empty cell: no release of that line needs
it. The patches of Spark are proved by `make spark` and not here. Where a number is smaller than it could be, the patch
is newer than the measurement (second table), or its cases need a launcher that was not used for these releases.

"""
RELEASES_HEADING = """
## By release

*Red*: strict DDP refuses the released source with exactly the parameters that the patch names, or the released source
differs from one process. *Green*: the patched source trains, and each rank matches one process. *Reference*: weights
and forecasts are bit for bit those of the released source, in one process and with `find_unused_parameters=True`.
*Control*: NHITS, which needs no patch, trains on both. nfpatch 0.2.0 wrote its patches into neuralforecast's own
files and removed unused layers; from 0.3.0 on they call runtime modules and freeze the layers.

"""
COLUMNS = (
    *("release", "launchers", "red", "green", "reference", "control"),
    *("torch", "Lightning", "Python", "measured", "nfpatch", "outcome"),
)


def affected_releases(catalog: Catalog) -> list[str]:
    """The releases that need a patch, oldest first."""
    return [
        release
        for release in catalog.releases
        if any(catalog.rewrites_for(patch, release) for patch in catalog.patches)
    ]


def needs_old_stack(release: str) -> bool:
    """Whether the release works only with Lightning 1."""
    return tuple(map(int, release.split(".")[:2])) < FIRST_RELEASE_ON_LIGHTNING_2


def launchers_for(release: str) -> list[str]:
    """The launchers with which this release is proved."""
    if release not in BY_EVERY_LAUNCHER:
        return ["torchrun"]
    return ["torchrun", "script", "spawn", *([] if needs_old_stack(release) else ["fork"])]


def proof_of(release: str, python: Path, options: list[str]) -> dict[str, Any]:
    """The JSON document of `verify --preview` on this release, for all patches that it needs."""
    catalog = load_catalog()
    by_name = [
        patch.id
        for patch in catalog.patches
        if patch.opt_in or any(case.stage == "ray-search" for case in patch.cases)
        if catalog.files_of(patch, release)
    ]
    with tempfile.TemporaryDirectory(prefix="nfpatch-matrix-") as folder:
        command = [
            *(sys.executable, "-m", "nfpatch", "verify", "all", *by_name, "--preview", "--json", *options),
            *("--python", str(python), "--site-packages", str(unpack(release, Path(folder)))),
            *("--timeout", str(TIMEOUT_SECONDS)),
            *(f"--launcher={launcher}" for launcher in launchers_for(release)),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def record_of(document: dict[str, Any]) -> dict[str, Any]:
    """The part of a proof that is stored."""
    cases = document["cases"]
    strict = [case for case in cases if case["strategy"] == "strict-ddp" and case["patch"] is not None]
    return {
        "nfpatch": nfpatch.__version__,
        "measured": f"{date.today()}",
        **{key: document[key] for key in ("torch", "lightning", "python")},
        "launchers": [*dict.fromkeys(case["launcher"] for case in cases)],
        "proved": sorted(document["proved"]),
        "unproved": {each["id"]: each["reason"] for each in document["unproved"]},
        "red": tally([case for case in strict if case["source"] == "released" and case["expect"] != "pass"]),
        "green": tally([case for case in strict if case["source"] != "released" and case["expect"] == "pass"]),
        "reference": tally([case for case in cases if case["like"] is not None and case["patch"] is not None]),
        "control": tally([case for case in cases if case["patch"] is None]),
        "ok": document["ok"],
    }


def tally(cases: list[dict[str, Any]]) -> str:
    """The number of cases with the expected result."""
    return f"{sum(case['ok'] for case in cases)} of {len(cases)}"


def page_of(catalog: Catalog, proofs: dict[str, dict[str, Any]]) -> str:
    """The text of the page."""
    patches = [patch for group, own in catalog.groups.items() if group != "spark" for patch in own]
    return (
        HEADING
        + table(("patch", *LINES), [[f"`{patch.id}`", *proved_by_line(catalog, patch, proofs)] for patch in patches])
        + RELEASES_HEADING
        + table(COLUMNS, [cells_of(release, proofs[release]) for release in catalog.releases if release in proofs])
        + "\nMeasured on Linux x86_64; no GPU was used.\n"
    )


def proved_by_line(catalog: Catalog, patch: Patch, proofs: dict[str, dict[str, Any]]) -> list[str]:
    """For each line of releases, the number of those that need the patch and in which it was proved."""
    cells = []
    for beginnings in LINES.values():
        needing = [
            release
            for release in catalog.releases
            if release.startswith(beginnings) and catalog.files_of(patch, release)
        ]
        proved = sum(patch.id in proofs.get(release, {"proved": ()})["proved"] for release in needing)
        cells.append(f"{proved} of {len(needing)}" if needing else "")
    return cells


def cells_of(release: str, proof: dict[str, Any]) -> list[str]:
    """The row of a release in the second table."""
    return [
        *(release, ", ".join(proof["launchers"])),
        *(proof[key] for key in ("red", "green", "reference", "control", "torch", "lightning", "python")),
        *(proof["measured"], proof["nfpatch"], "proved" if proof["ok"] else "**NOT proved**"),
    ]


def table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, ["---"] * len(columns), *rows))


def read_proofs() -> dict[str, dict[str, Any]]:
    """The stored results, by release."""
    proofs: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    return proofs


def main() -> int:
    """Prove all releases, write the page; exit code 1 if a proof that ran failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", help="only these (default: all that need a patch)")
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--old-python", type=Path, help="the interpreter for releases up to 1.4.0")
    parser.add_argument("--thorough", action="store_true", help="all configurations")
    parser.add_argument("--page", action="store_true", help="prove nothing, and write the page from what is kept")
    arguments = parser.parse_args()
    catalog, proofs, failed = load_catalog(), read_proofs(), 0
    for release in [] if arguments.page else arguments.releases or affected_releases(catalog):
        python = arguments.old_python if needs_old_stack(release) else arguments.python
        print(f"== {release}" + ("" if python else ": not run, no --old-python"), file=sys.stderr, flush=True)
        if python is None:
            continue
        document = proof_of(release, python, ["--thorough"] if arguments.thorough else [])
        failed += not document.get("ok", False)
        if "error" in document:
            print(document["error"], file=sys.stderr, flush=True)
            continue
        proofs[release] = record_of(document)
        kept = {each: proofs[each] for each in catalog.releases if each in proofs}
        DATA.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page_of(catalog, proofs), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
