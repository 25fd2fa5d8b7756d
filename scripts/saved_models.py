"""Proves on real models that `nfpatch migrate` keeps them, and writes docs/results/saved-models.md.

A model is trained and saved with one source, migrated to another, and loaded there: its forecasts must be bit-identical
to those before. A fit that was stopped half way is migrated and resumed: the weights must be bit for bit those of the
fit that was not stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from releases import CACHE, unpack

from nfpatch.catalog import Case, load_catalog
from nfpatch.target import ENTRY
from nfpatch.target.events import CaseSpec, encode

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "saved-models.md"
HEADING = """# Migrated models

Written by `make saved-models`. A model is trained and saved with one source, migrated to another (`nfpatch migrate`),
and loaded there. *Forecasts*: are they bit for bit the same? *Resumed fit*: a fit of six steps leaves a checkpoint
after three, which is migrated and resumed with the other source; are the weights at the end those of a fit that was
not stopped? *Before*: the error of loading the file without migrating it. A TFT with static features keeps its
layers, so it loads as it is, and `migrate` leaves it alone.

"""
CATALOG = load_catalog()
PATCHES = CATALOG.patches
SAVING = Path(__file__).with_name("saving.py")
RELEASES = ("1.5.0", "1.6.4", "1.7.4")
UPGRADE = ("1.7.4", "1.7.7")


@dataclass(frozen=True)
class Transfer:
    """Models that are saved with the source in one site-packages folder and loaded with that in another."""

    name: str
    source: Path
    target: Path
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class MigrationCheck:
    """The result for one model.

    `before` is the error of loading it at its target before the migration, empty if there was none. `files` has the
    entries of `migrate --json` for its file and for the checkpoints of its fit.
    """

    transfer: str
    case: Case
    before: str
    files: tuple[Mapping[str, Any], ...]
    equal_forecasts: bool
    equal_resumed: bool

    @property
    def holds(self) -> bool:
        """Whether the model is unchanged, and its files were rewritten only if necessary."""
        expected = "migrated" if is_resized(self.case) else "already-fits"
        return all(file["state"] == expected for file in self.files) and self.equal_forecasts and self.equal_resumed

    @property
    def row(self) -> str:
        """The result as a row of the table."""
        file = self.files[0]
        changes = ", ".join(f"{len(file[verb])} {verb}" for verb in ("dropped", "added") if file[verb]) or "the same"
        before = re.search(r"Unexpected key|Missing key", self.before, re.IGNORECASE)
        cells = [
            *(self.transfer, f"{self.case.model}, {self.case.config}"),
            f"{before[0].lower()}(s)" if before else self.before[:40] or "loads",
            f"**{file['state']}**" if file["state"] == "refused" else changes,
            "bit-equal" if self.equal_forecasts else "**differ**",
            "bit-equal" if self.equal_resumed else "**differs**",
        ]
        return f"| {' | '.join(cells)} |"


def cases_of(release: str, thorough: bool = False) -> tuple[Case, ...]:
    """The configurations of the models from which some patch removes layers, as patches of this release name them."""
    resized = {patch.model for patch in PATCHES if patch.removes_parameters}
    cases = [
        case
        for patch in PATCHES
        for case in patch.cases
        if CATALOG.rewrites_for(patch, release)
        and patch.model in resized
        and (thorough or not case.thorough)
        and case.unused_parameters != ()
        and case.is_possible_in(release)
    ]
    return tuple({repr((c.model, c.loss, c.exogenous, dict(c.options))): c for c in cases}.values())


def is_resized(case: Case) -> bool:
    """Whether a patch removes layers in this configuration."""
    return any(case in patch.cases and patch.removes_parameters for patch in PATCHES)


def patched(original: Path, folder: Path) -> Path:
    """A copy of a site-packages folder with all patches applied."""
    shutil.copytree(original, folder)
    nfpatch_json("apply", "--site-packages", folder)
    return folder


def nfpatch_json(*arguments: object) -> Any:
    """The JSON document that an nfpatch command prints."""
    command = [sys.executable, "-m", "nfpatch", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)


def results_of(jobs: Sequence[Mapping[str, Any]], python: Path, folder: Path) -> list[dict[str, Any]]:
    """The results of the jobs, all in one process of the interpreter. Raises RuntimeError if that fails."""
    specification, out, log = (folder / name for name in ("spec.json", "out.pkl", "saving.log"))
    specification.write_text(json.dumps({"entry": str(ENTRY), "out": str(out), "jobs": jobs}))
    environment = {
        **os.environ,
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # releases before 2.0 need it to load with torch 2.6
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        command = [python, SAVING, specification]
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise RuntimeError(log.read_text(errors="replace")[-3000:])
    results: list[dict[str, Any]] = pickle.loads(out.read_bytes())
    return results


def as_json(case: Case) -> dict[str, Any]:
    """A case in the format of a proof."""
    return encode(CaseSpec("", case.model, case.loss, exogenous=tuple(case.exogenous), options=dict(case.options)))


def prove(transfers: Sequence[Transfer], python: Path, folder: Path) -> list[MigrationCheck]:
    """Run all transfers. The models are left in `folder`, with backups of the old files."""
    models = {
        (number, place): (folder / str(number) / str(place) / "saved", folder / str(number) / str(place) / "fit", case)
        for number, transfer in enumerate(transfers)
        for place, case in enumerate(transfer.cases)
    }

    def job(action: str, number: int, tree: Path) -> dict[str, Any]:
        fits = action in ("fit", "resume")
        own = [(fit if fits else saved, case) for (n, _), (saved, fit, case) in models.items() if n == number]
        return {
            "do": action,
            "tree": str(tree),
            "cases": {str(path): as_json(case) for path, case in own},
        }

    numbered = list(enumerate(transfers))
    saves = [job("save", number, transfer.source) for number, transfer in numbered]
    fits = [job("fit", number, transfer.source) for number, transfer in numbered]
    loads = [job("load", number, transfer.target) for number, transfer in numbered]
    resumes = [job("resume", number, transfer.target) for number, transfer in numbered]
    count = len(transfers)
    first = results_of([*saves, *fits, *loads], python, folder)
    classes = {folder: case.model for *folders, case in models.values() for folder in folders}
    files: dict[Path, list[Mapping[str, Any]]] = {}
    for number, transfer in numbered:
        for file in migrated([*saves[number]["cases"], *fits[number]["cases"]], classes, transfer.target, python):
            files.setdefault(Path(file["path"]).parent, []).append(file)
    second = results_of([*loads, *resumes], python, folder)
    results = []
    for (number, _), (saved, fit, case) in models.items():
        before = first[2 * count + number][str(saved)]
        weights = first[count + number][str(fit)], second[count + number][str(fit)]
        forecasts = first[number][str(saved)], second[number][str(saved)]
        results.append(
            MigrationCheck(
                transfer=transfers[number].name,
                case=case,
                before=before if isinstance(before, str) else "",
                files=(*files[saved], *files[fit]),
                equal_forecasts=isinstance(forecasts[0], bytes) and forecasts[0] == forecasts[1],
                equal_resumed=are_equal_weights(*weights),
            )
        )
    return results


def migrated(
    folders: Sequence[str], classes: Mapping[Path, str], target: Path, python: Path
) -> list[Mapping[str, Any]]:
    """The output of `migrate` for the files in these folders, with `--trust` or `--model` where it asks for them."""
    migrate = ("migrate", "--python", python, "--site-packages", target)
    answer = nfpatch_json(*migrate, *folders)["files"]
    # Before 1.7.1 a callback in a checkpoint refers to the model, and the model to its trainer.
    distrusted = [file["path"] for file in answer if "--trust" in file["detail"]]
    trust = ["--trust"] if distrusted else []
    if distrusted:
        answer = [file for file in answer if file["path"] not in distrusted]
        answer += nfpatch_json(*migrate, *trust, *distrusted)["files"]
    # A checkpoint does not record its class, and that of an NBEATSx without `out` may be an NBEATS.
    unknown = [Path(file["path"]) for file in answer if "--model" in file["detail"]]
    answer = [file for file in answer if Path(file["path"]) not in unknown]
    for model in sorted({classes[path.parent] for path in unknown}):
        paths = [path for path in unknown if classes[path.parent] == model]
        answer += nfpatch_json(*migrate, *trust, "--model", model, *paths)["files"]
    return answer


def are_equal_weights(one: Any, other: Any) -> bool:
    """Whether the weights that two models share are bit for bit the same."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    shared = set(one) & set(other)
    return bool(shared) and all(one[name] == other[name] for name in shared)


def main() -> int:
    """Prove all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", default=RELEASES)
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--thorough", action="store_true", help="all configurations that the patches name")
    parser.add_argument("--print", action="store_true", help="print the table and leave the page alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nfpatch-saved-") as name:
        folder = Path(name)
        transfers = []
        for release in arguments.releases:
            original = unpack(release, folder / release / "original")
            patched_site = patched(original, folder / release / "patched")
            cases = cases_of(release, arguments.thorough)
            transfers += [
                Transfer(f"{release}, applied", original, patched_site, cases),
                Transfer(f"{release}, reverted", patched_site, original, cases),
            ]
            if release == UPGRADE[0]:
                newer = unpack(UPGRADE[1], folder / UPGRADE[1])
                outgrown = tuple(filter(is_resized, cases))
                transfers.append(Transfer(f"{release}, upgraded to {UPGRADE[1]}", original, newer, outgrown))
        results = prove(transfers, arguments.python, folder)
    heading = "| release | model | before | keys | forecasts | resumed fit |\n|---|---|---|---|---|---|"
    table = "\n".join([heading, *(result.row for result in results)])
    print(table)
    for result in results:
        if not result.holds:
            print(result, file=sys.stderr)
    if not arguments.print:
        PAGE.write_text(f"{HEADING}{table}\n", encoding="utf-8")
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
