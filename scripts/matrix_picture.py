"""The picture of the matrix: models by releases; each cell has two halves, released and patched.

A half is green only if an ordinary script of that model has the same results with two processes as with one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from releases import RELEASES

CELL_WIDTH, CELL_HEIGHT, GAP = 22, 15, 2
LEFT, TOP, BOTTOM = 132, 70, 62

# The meaning of a half cell: the worst of its configurations; "revin" if only the scaler of that name, which all models
# share, is unused, "error" only if no configuration trains.
KINDS = {
    "clean": "matches one process",
    "script": "differs",
    "dead": "unused parameters",
    "revin": "unused with revin only",
    "error": "fails in one process too",
    "unknown": "not run",
}

STYLE = """
text { font: 11px system-ui, sans-serif; fill: #24292f }
.clean { fill: #2da44e } .dead { fill: #cf222e } .revin { fill: #d4a72c } .error { fill: #9a9fa5 }
.script { fill: #bc4c00 } .unknown { fill: #d0d7de }
.mark { stroke: #fff; stroke-width: 1.4 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .clean { fill: #3fb950 } .dead { fill: #f85149 } }
"""


def kind_of(tally: dict[str, Any], ends: str | None) -> str:
    """The kind of a half cell, by the configurations and the result of the script."""
    if tally["dead"]:
        cells = [cell for cells in tally["dead"].values() for cell in cells]
        if not all("scaler_type='revin'" in cell for cell in cells):
            return "dead"
    if ends == "otherwise":
        return "script"
    if not tally["clean"] or ends == "alone":
        return "error"
    if tally["dead"]:
        return "revin"
    return "clean" if ends == "well" else "unknown"


def picture(runs: list[dict[str, Any]], journeys: dict[str, Any]) -> str:
    """The SVG; `journeys` has the results of the scripts, by release, model and source.

    Halves that are not green have a stroke, for readers who cannot distinguish red from green.
    """
    models = sorted({run["model"] for run in runs}, key=str.lower)
    releases = [release for release in RELEASES if any(release in run["releases"] for run in runs)]
    halves: dict[str, list[str]] = defaultdict(list)
    marks = []
    width = CELL_WIDTH // 2 - 1
    height = CELL_HEIGHT - GAP
    for run in runs:
        for release in run["releases"]:
            y = TOP + models.index(run["model"]) * CELL_HEIGHT
            ends = journeys.get(release, {}).get(run["model"], {})
            for half, source in enumerate(("released", "patched")):
                x = LEFT + releases.index(release) * CELL_WIDTH + half * width
                kind = kind_of(run[source], ends.get(source, {}).get("ends"))
                halves[kind].append(f"M{x} {y}h{width}v{height}h-{width}z")
                if kind in ("dead", "script"):
                    marks.append(f"M{x + 2} {y + 2}l{width - 4} {height - 4}")
    names = [
        f'<text x="{LEFT - 8}" y="{TOP + row * CELL_HEIGHT + 10}" text-anchor="end">{model}</text>'
        for row, model in enumerate(models)
    ]
    heads = [
        f'<text transform="translate({LEFT + column * CELL_WIDTH + 14} {TOP - 6}) rotate(-60)">{release}</text>'
        for column, release in enumerate(releases)
    ]
    below = TOP + len(models) * CELL_HEIGHT + 24
    size = (max(LEFT + len(releases) * CELL_WIDTH + 30, 960), TOP + len(models) * CELL_HEIGHT + BOTTOM)
    paths = [f'<path class="{kind}" d="{"".join(shapes)}"/>' for kind, shapes in sorted(halves.items())]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img">',
            "<title>scripts of models by releases, in two processes: left released, right patched</title>",
            f"<style>{STYLE}</style>",
            *names,
            *heads,
            *paths,
            f'<path class="mark" d="{"".join(marks)}"/>',
            *_legend(below),
            "</svg>",
            "",
        ]
    )


def _legend(y: int) -> list[str]:
    """The legend of the halves and the colours."""
    parts = [f'<text x="{LEFT}" y="{y}">left half: released, right half: patched</text>']
    x, y = LEFT, y + 18
    for kind, words in KINDS.items():
        parts.append(f'<path class="{kind}" d="M{x} {y - 10}h10v12h-10z"/>')
        if kind in ("dead", "script"):
            parts.append(f'<path class="mark" d="M{x + 2} {y - 8}l6 8"/>')
        parts.append(f'<text x="{x + 16}" y="{y}">{words}</text>')
        x += 40 + 6 * len(words)
    return parts
