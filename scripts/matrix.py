"""Proves the patches of every release that needs one, and writes the table into docs/matrix.md.

Releases that are not named keep their row, with the day when it was measured. Each release is unpacked beside one
environment that trains and proved by `nfpatch verify --preview` there. Releases up to 1.4.0 need Lightning 1.6.5: name
an environment with it by --old-python, else they are listed as not run.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from releases import CACHE, unpack

from nfpatch.catalog import Catalog, load_catalog

PAGE = Path(__file__).resolve().parent.parent / "docs" / "matrix.md"
FIRST_RELEASE_ON_LIGHTNING_2 = (1, 5)
# One of each line of releases is proved by all launchers; Lightning 1.6.5 cannot fork
BY_EVERY_LAUNCHER = ("1.4.0", "1.5.0", "1.7.4", "2.0.1", "3.0.2", "3.1.9", "3.3.0")
TIMEOUT_SECONDS = 1200
HEADING = """# The proof, release by release

Written by `make matrix`. Each row is `nfpatch verify --preview{options}` on that release as its wheel has it, of all
patches that it needs and of those that are opt-in: two processes, gloo, CPU, by torch's launcher, and for
one of each line of releases by every other as well. *Red*: the released source is refused by strict DDP, with exactly
the parameters that the patch claims, or a stage of a script does not end as in one process. *Green*: the patched source
trains, and each rank gets what one process gets. *Like the original*: weights and forecasts are bit for bit those of
the original, trained by one process and with `find_unused_parameters=True`. *Control*: NHITS trains on both. *Patches*:
how many of those that the release has a use for were proved. Rows with "before" instead of a day are of version 0.2.0,
whose patches were written into neuralforecast's own files as a whole and removed unused layers.

"""
COLUMNS = (
    *("release", "patches", "launchers", "red", "green", "like the original", "control"),
    *("torch, Lightning, Python", "measured", ""),
)


def affected_releases(catalog: Catalog) -> list[str]:
    """The releases that need a patch, oldest first."""
    return [
        release
        for release in catalog.releases
        if any(catalog.rewrites_for(patch, release) for patch in catalog.patches)
    ]


def needs_old_stack(release: str) -> bool:
    """Whether the release admits Lightning 1 only."""
    return tuple(map(int, release.split(".")[:2])) < FIRST_RELEASE_ON_LIGHTNING_2


def launchers_for(release: str) -> list[str]:
    """The launchers by which this release is proved."""
    if release not in BY_EVERY_LAUNCHER:
        return ["torchrun"]
    return ["torchrun", "script", "spawn", *([] if needs_old_stack(release) else ["fork"])]


def proof_of(release: str, python: Path, options: list[str]) -> dict[str, Any]:
    """The JSON document of `verify --preview` on this release, of all patches that it has a use for."""
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


def row_of(release: str, document: dict[str, Any]) -> str:
    """The row of the table for one release."""
    if "error" in document:
        return f"| {release} | not run: {document['error'].splitlines()[0]}{' |' * (len(COLUMNS) - 1)}"
    cases = document["cases"]
    strict = [case for case in cases if case["strategy"] == "strict-ddp" and case["patch"] is not None]
    cells = [
        f"{len(document['proved'])} of {len(document['proved']) + len(document['unproved'])}",
        ", ".join(dict.fromkeys(case["launcher"] for case in cases)),
        tally([case for case in strict if case["source"] == "released" and case["expect"] != "pass"]),
        tally([case for case in strict if case["source"] != "released" and case["expect"] == "pass"]),
        tally([case for case in cases if case["like"] is not None and case["patch"] is not None]),
        tally([case for case in cases if case["patch"] is None]),
        f"{document['torch']}, {document['lightning']}, {document['python']}",
        f"{date.today()}",
        "proved" if document["ok"] else "**NOT proved**",
    ]
    return f"| {release} | {' | '.join(cells)} |"


def tally(cases: list[dict[str, Any]]) -> str:
    """How many of the cases came out as they must."""
    return f"{sum(case['ok'] for case in cases)} of {len(cases)}"


def main() -> int:
    """Prove all releases, write the page; exit code 1 if a proof that ran failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", help="only these (default: all that need a patch)")
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--old-python", type=Path, help="the interpreter for releases up to 1.4.0")
    parser.add_argument("--thorough", action="store_true", help="all configurations")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    options = ["--thorough"] if arguments.thorough else []
    rows, failed = rows_of(arguments.output), 0
    affected = affected_releases(load_catalog())
    for release in arguments.releases or affected:
        python = arguments.old_python if needs_old_stack(release) else arguments.python
        if python is None:
            rows[release] = row_of(release, {"error": "no environment with Lightning 1.6.5 was named"})
            continue
        print(f"== {release}", file=sys.stderr, flush=True)
        document = proof_of(release, python, options)
        failed += not document.get("ok", False)
        rows[release] = row_of(release, document)
        write_page(arguments.output, [rows[each] for each in affected if each in rows], options)
    return 1 if failed else 0


def rows_of(page: Path) -> dict[str, str]:
    """The rows that a page has, by release; none where there is no page."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    rows = [line for line in lines if line.startswith("| ") and line.count("|") == len(COLUMNS) + 1]
    return {row.split("|")[1].strip(): row for row in rows[1:]}


def write_page(page: Path, rows: list[str], options: list[str]) -> None:
    """Writes the page with these rows."""
    table = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *rows]
    machine = f"\nMeasured on {platform.system()} {platform.machine()}; no GPU was used.\n"
    heading = HEADING.format(options="".join(f" {option}" for option in options))
    page.write_text(heading + "\n".join(table) + "\n" + machine, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
