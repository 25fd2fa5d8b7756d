"""Writes docs/results/models.md and its picture from matrix.json.gz and journeys.json in the same folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audit_matrix import KINDS, Run, cells_in, read_runs, size_of
from journeys import Journeys, read_journeys
from matrix_picture import picture
from releases import RELEASES

from nfpatch.catalog import Case

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

PAGE = """# Every model of every release, before and after

Written by `make matrix` from what it measured ([matrix.json.gz](matrix.json.gz), [journeys.json](journeys.json)).

![models by releases, before and after](matrix.svg)

## Scripts

An ordinary script of each model (fit with validation, `predict`, `cross_validation` with and without `refit`, save,
load, fit again) runs in two processes (gloo, CPU, torchrun), and each result is compared with one process
([how](../concepts/proof.md)). On the released source it runs as far as `predict`.

{scripts} scripts in {journey_releases} releases: {well_before} match one process on the released source, {well_after}
on the patched one; {alone} models fail in one process too. A stage that fails in one process with the same error is
not counted.

## Searches

From 1.6.4 on each Auto class searches through Optuna: two trials that differ in shape, with learning rates from an
unseeded sampler; then the better one is trained again. {searches} searches in {search_releases}: {searches_before} end
with equal ranks on the released source, {searches_after} on the patched one; of the rest, {searches_alone} fail in one
process too.

Before 1.6.4, and in every release for AutoHINT, neuralforecast searches through ray only. {through_ray_after} of
{through_ray} such searches in {ray_releases} end with equal ranks on the patched source (a real ray, two pretended
GPUs). On the released source only AutoNHITS was run ([matrix.md](matrix.md)): trials fail or hang.

## Configurations

A configuration of a model is a *cell* ([audit.md](../reference/audit.md)). {cells} cells of {files} model files in
{releases} releases: {dead_before} have unused parameters on the released source, {dead_after} on the patched one.

- *Released*: the files of the wheel. *Patched*: after `nfpatch apply`; the cells with unused parameters, and all cells
  of a model whose file has changed, were trained again.
- *DDP*: how many of these cells strict DDP trained in two processes: the first cell of every model that trains, and the
  cells that had unused parameters with default options in a model whose file has changed; {ddp} in all.
- A cell is clean, has unused parameters, is refused (the release does not accept the configuration) or is an error.
- A model whose file and cells are equal in several releases was audited in one of them.

The cells were measured with nfpatch 0.1.0, which removed the layers that are frozen today; the scripts and searches
with 0.2.0, which wrote its patches into neuralforecast's own files.

| model | releases | patches | released | patched | DDP | script, released | script, patched |
|---|---|---|---|---|---|---|---|
{rows}

## Scripts that do not match, and stages that fail in one process too

{endings}

## Cells that are not clean, and why

The words of a refusal are neuralforecast's own. An error is a crash, on the released and on the patched source unless
noted.

{reasons}

Measured on Linux x86_64 with {stacks}; no GPU was used.
"""
# The results of scripts, in the words of the page
ENDINGS = {"well": "match", "otherwise": "differ", "alone": "fail in one process too"}
UNUSED = "unused"


def page_of(runs: list[Run], journeys: Journeys) -> str:
    """The text of docs/results/models.md."""

    def total(source: str, kind: str) -> int:
        return sum(len(cells_in(run[source], kind)) for run in runs)

    def numbers(tally: dict[str, Any]) -> str:
        kinds = {"clean": tally["clean"], **{shown(kind): len(cells_in(tally, kind)) for kind in KINDS}}
        return ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)

    rows = [
        f"| {run['model']} | {release_ranges(run['releases'])} | {', '.join(run['patches'])} "
        f"| {numbers(run['released'])} | {numbers(run['patched'])} | {run['ddp']} "
        f"| {script_of(run, journeys, 'released')} | {script_of(run, journeys, 'patched')} |"
        for run in runs
    ]
    parts = parted(journeys)
    scripts, searches, through_ray = ([ends for each in of.values() for ends in each.values()] for of in parts)
    return PAGE.format(
        cells=sum(size_of(run["patched"]) for run in runs),
        files=len({(run["model"], run["sha256"]) for run in runs}),
        releases=len({release for run in runs for release in run["releases"]}),
        dead_before=total("released", "dead"),
        dead_after=total("patched", "dead"),
        ddp=sum(run["ddp"] for run in runs),
        rows="\n".join(rows),
        scripts=len(scripts),
        journey_releases=len(journeys),
        well_before=ending(scripts, "released", "well"),
        well_after=ending(scripts, "patched", "well"),
        alone=ending(scripts, "patched", "alone"),
        searches=len(searches),
        search_releases=release_ranges(release for release, models in parts[1].items() if models),
        searches_before=ending(searches, "released", "well"),
        searches_after=ending(searches, "patched", "well"),
        searches_alone=ending(searches, "patched", "alone"),
        through_ray=len(through_ray),
        through_ray_after=ending(through_ray, "patched", "well"),
        ray_releases=release_ranges(release for release, models in parts[2].items() if models),
        reasons="\n".join(reasons_of(runs)) or "Nothing.",
        endings="\n".join(endings_of(journeys)) or "Nothing.",
        stacks="; ".join(sorted({run["stack"] for run in runs})),
    )


def shown(kind: str) -> str:
    """A kind of cells in the words of the page."""
    return UNUSED if kind == "dead" else kind


def parted(journeys: Journeys) -> list[Journeys]:
    """The scripts of models, the searches through Optuna, and those through ray, which are not run unpatched."""

    def part_of(model: str, ends: dict[str, dict[str, str]]) -> int:
        return 0 if not Case(model, "").is_search else 1 if "released" in ends else 2

    return [
        {
            release: {model: ends for model, ends in models.items() if part_of(model, ends) == part}
            for release, models in journeys.items()
        }
        for part in range(3)
    ]


def ending(scripts: list[dict[str, dict[str, str]]], source: str, how: str) -> int:
    """The number of scripts with this result."""
    return sum(ends[source]["ends"] == how for ends in scripts)


def script_of(run: Run, journeys: Journeys, source: str) -> str:
    """The results of a model's scripts in the releases of a run, as the number of matching ones."""
    known = [journeys[release] for release in run["releases"] if run["model"] in journeys.get(release, {})]
    ends = [models[run["model"]][source]["ends"] for models in known]
    counts = Counter(ENDINGS[end] for end in ends)
    counts.update({"not run": len(run["releases"]) - len(ends)})
    return ", ".join(f"{number} {end}" for end, number in counts.items() if number)


def endings_of(journeys: Journeys) -> list[str]:
    """A list entry for each way in which a script does not match, or a stage of it fails in one process too."""
    models_by_words: dict[str, dict[str, set[str]]] = {}
    for release, models in journeys.items():
        for model, ends in models.items():
            kind = "differs" if ends["patched"]["ends"] == "otherwise" else "fails in one process too"
            for words in filter(None, ends["patched"]["words"].split("; ")):
                models_by_words.setdefault(f"{kind}: {words}", {}).setdefault(model, set()).add(release)
    return [
        f"- {words}  \n  ({'; '.join(f'{model} {release_ranges(own)}' for model, own in sorted(models.items()))})"
        for words, models in sorted(
            models_by_words.items(), key=lambda item: (not item[0].startswith("differs"), item[0])
        )
    ]


def reasons_of(runs: list[Run]) -> list[str]:
    """A list entry for each reason why cells of a model are not clean when patched."""
    found_by_reason: dict[tuple[str, str], tuple[set[str], dict[str, None]]] = {}
    for run in runs:
        for kind in KINDS:
            for words, found in run["patched"][kind].items():
                reason = f"**{UNUSED}**: {words}" if kind == "dead" else words
                releases, cells = found_by_reason.setdefault((run["model"], reason), (set(), {}))
                releases.update(run["releases"])
                cells.update(dict.fromkeys(found))
    entries = []
    for (model, reason), (releases, cells) in found_by_reason.items():
        shown = [*list(cells)[:6], *(["..."] if len(cells) > 6 else [])]
        entries.append(f"- {model} {release_ranges(releases)}: {reason}  \n  ({'; '.join(shown)})")
    return entries


def release_ranges(releases: Iterable[str]) -> str:
    """Releases as ranges of the known ones, `1.6.2 - 1.6.4`."""
    wanted = set(releases)
    ranges: list[list[str]] = []
    for place, release in enumerate(RELEASES):
        if release in wanted:
            if place and RELEASES[place - 1] in wanted:
                ranges[-1][1:] = [release]
            else:
                ranges.append([release])
    return ", ".join(" - ".join(ends) for ends in ranges)


if __name__ == "__main__":
    measured, endings = read_runs(), read_journeys()
    (RESULTS / "matrix.svg").write_text(picture(measured, endings), encoding="utf-8")
    (RESULTS / "models.md").write_text(page_of(measured, endings), encoding="utf-8")
