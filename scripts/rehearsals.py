"""Rehearses scripts as users write them, as released and healed, and writes the table of docs/results/rehearsals.md.

The scripts lie in tests/rehearsals/scripts; they are written after the README and the tutorials of neuralforecast.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from releases import CACHE, unpack

from nfpatch.console import pluralize

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests" / "rehearsals" / "scripts"
PAGE = ROOT / "docs" / "results" / "rehearsals.md"
RELEASES = ("1.5.0", "1.7.4", "2.0.1", "3.3.0")
# By script: its arguments, and the releases that cannot run it, with the reason
SUBJECTS: dict[tuple[str, ...], dict[str, str]] = {
    ("nhits_nbeats.py",): {},
    ("tft_static.py",): {},
    ("cross_validation.py",): {},
    ("auto_nhits_optuna.py",): {"1.5.0": "knows no Optuna"},
    ("hint.py",): {},
    ("argparse_script.py", "--model", "NBEATS", "--horizon", "6"): {},
    ("yaml_project/yaml_config.py",): {},
    ("loggers.py",): {},
    ("checkpoint_resume.py",): {},
    ("-m", "pipeline", "--horizon", "6"): {},
}
HEADING = """# Ordinary scripts, rehearsed

Written by `make rehearsals`: scripts after the README and the tutorials of neuralforecast
([tests/rehearsals/scripts](../../tests/rehearsals/scripts)), by `nfpatch rehearse` on two processes, on the released
and on the patched source. None of them mentions nfpatch or devices. A cell names the calls that differ from one
process, and the patches that the rehearsal names for them.

torch {torch}, Lightning {lightning}, Python {python}. `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1` was set, without which this
torch does not load models saved by releases before 2.0. TFT of 2.0.1 with static features fails in one process too.

| script | release | released | patched |
|---|---|---|---|
"""


def rehearsed(subject: tuple[str, ...], site: Path, python: Path, source: str) -> dict[str, Any]:
    """The JSON document of one rehearsal, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="nfpatch-scripts-") as folder:
        place = Path(folder) / "scripts"
        shutil.copytree(SCRIPTS, place)
        where = ("--python", str(python), "--site-packages", str(site), "--source", source, "--timeout", "900")
        command = [sys.executable, "-m", "nfpatch", "rehearse", *where, "--json", *subject]
        # without the PYTHONPATH of `make`: a script has none
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        done = subprocess.run(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def refused(stage: dict[str, Any]) -> bool:
    """Whether one process is refused the call as well."""
    return str(stage["detail"]).endswith("one process is refused as well")


def in_words(document: dict[str, Any]) -> str:
    """What a rehearsal came to, for a cell of the table."""
    if "error" in document:
        return f"not run: {document['error'].splitlines()[0]}"
    if document["ok"]:
        return f"as in one process ({pluralize(len(document['stages']), 'call', 'calls')})"
    told = []
    for stage in document["stages"]:
        if not stage["ok"]:
            patches = ", ".join(stage["patches"]) or ("one process as well" if refused(stage) else "no patch named")
            name = stage["call"].rpartition(".")[2]
            told.append(f"`{name}`, line {stage['line']}: {stage['outcome']} ({patches})")
    return "; ".join(told) or f"ended with exit code {document['exit_code']}: {document['ended'] or 'by itself'}"


def main() -> int:
    """Rehearse all, write the page; exit code 1 if a healed script is not as in one process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", default=RELEASES)
    parser.add_argument("--python", type=Path, default=CACHE / "training" / "bin" / "python")
    parser.add_argument("--script", help="only those with this in their name")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    rows: list[str] = []
    failed, stack = 0, dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="nfpatch-sites-") as folder:
        for release in arguments.releases:
            site = unpack(release, Path(folder, release))
            for subject, missing in SUBJECTS.items():
                name = " ".join(subject)
                if arguments.script is not None and arguments.script not in name:
                    continue
                if release in missing:
                    rows.append(f"| `{name}` | {release} | {missing[release]} | |")
                    continue
                print(f"== {release} {name}", file=sys.stderr, flush=True)
                released, healed = (
                    rehearsed(subject, site, arguments.python.absolute(), source) for source in ("released", "patched")
                )
                failed += not healed.get("ok", False) and not any(map(refused, healed.get("stages", ())))
                stack = healed if "torch" in healed else stack
                rows.append(f"| `{name}` | {release} | {in_words(released)} | {in_words(healed)} |")
                versions = {part: stack.get(part, "not known") for part in ("torch", "lightning", "python")}
                arguments.output.write_text(HEADING.format(**versions) + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
