"""The tools that are measured: nfpatch and others, each with its own neuralforecast, installed by pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from releases import CACHE, read_member, wheel_of  # noqa: E402, F401

from nfpatch.catalog import load_catalog  # noqa: E402
from nfpatch.installs import record  # noqa: E402

RELEASE = "1.7.4"  # the last release that needs both patches
PATCHES = {
    "neuralforecast/models/nbeatsx.py": "nbeatsx-unused-out",
    "neuralforecast/models/tft.py": "tft-static-encoder",
}
P12Y = "patch-package-py==0.2.1"
VENV_PATCHER = "venv-patcher==0.2.0"

# The log that `which` reads, of two ranks of NBEATSx
LOG = ROOT / "tests" / "which" / "logs" / "nbeatsx-script-1.7.4.log"

CLICK = "import click"
LIBCST = "import click, libcst"
LIMIT = 2.0  # times the reference

BENCHMARKS = CACHE / "benchmarks"
TRAINING = CACHE / "training"  # the default training environment
BARE = {"PYTHONPATH": ""}  # the path for nfpatch in a checkout must not affect the other tools


class NotRun(Exception):
    """A tool cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One command that is timed. `reference` is the label of the row that its time is divided by."""

    label: str
    command: Sequence[object]
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)
    reference: Optional[str] = None
    limit: Optional[float] = None

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """The finished process. Raises NotRun, with its last output, if it fails.

        All rows read and write bytecode in one place of ours: whatever the shell's settings, no command compiles
        Python while it is timed, and an environment whose libraries are imported stays as it is.
        """
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(BENCHMARKS / "bytecode")}
        return run(*self.command, folder=self.folder, **bytecode, **self.environment, **environment)


REFERENCES = tuple(Row(code, (sys.executable, "-c", code)) for code in (CLICK, LIBCST))


@dataclass(frozen=True)
class Subject:
    """A tool, the site-packages that it works on, and its commands in the order of a round."""

    name: str
    site: Path
    rows: tuple[Row, ...]

    def restore(self) -> None:
        """Restore site-packages as it was when its environment was built."""
        shutil.rmtree(self.site)
        shutil.copytree(pristine_of(self.site), self.site, symlinks=True)

    def inspect(self) -> dict[str, Any]:
        """A round that is not timed: RECORD rows that apply makes false, and the files that the last command leaves.

        Raises NotRun if apply does not write the same two files as nfpatch.
        """
        self.restore()
        before, catalog, false_rows = snapshot(self.site), load_catalog(), []
        for row in self.rows:
            row.run()
            if " apply" in row.label and not false_rows:
                false_rows = false_record_rows(self.site)
            if row.label.endswith(" apply"):  # of the two patches that the other tools apply as well
                for file, patch in PATCHES.items():
                    known = catalog.fingerprints.file(RELEASE, file)
                    if known is None or known.detect_patches((self.site / file).read_bytes()) != {patch}:
                        raise NotRun(f"its apply left {file} other than patched")
        left_behind = differences(before, snapshot(self.site))
        return {"has_undo": len(self.rows) > 1, "false_record_rows": false_rows, "left_behind": left_behind}


def nfpatch_subject(release: str = RELEASE, patches: Sequence[str] = (), beside: str = "") -> Subject:
    """Run nfpatch on a release, as the command of the running environment if it is installed there.

    `apply` applies these patches, or all that the release needs. `beside` distinguishes the rows from others.
    """
    script = Path(sysconfig.get_path("scripts")) / "nfpatch"
    nfpatch = (script,) if script.exists() else (sys.executable, "-m", "nfpatch")
    _, site = build_environment(f"nfpatch-{release}", sys.executable, release=release)

    def row(label: str, reference: str, *arguments: str) -> Row:
        command = (*nfpatch, *arguments, "--site-packages", site)
        return Row(f"nfpatch {label}{beside}", command, ROOT, {}, reference, LIMIT)

    status = row("status", CLICK, "status")
    which = row("which", CLICK, "which", LOG)
    apply = row("apply", LIBCST, "apply", *patches)
    again = row("apply, nothing to do", CLICK, "apply", *patches)
    revert = row("revert", CLICK, "revert")
    return Subject("nfpatch", site, (status, which, apply, again, revert))


def everything_of(release: str) -> Subject:
    """The same with all patches that a release needs."""
    subject = nfpatch_subject(release, beside=f" ({release})")
    rows = tuple(row for row in subject.rows if LOG not in row.command)  # its log is for one release only
    return replace(subject, name=f"nfpatch, all of {release}", rows=rows)


def p12y_subject(diff: str) -> Subject:
    """patch-package-py: applies `patches/NAME+VERSION.patch` of the working folder. It has no undo."""
    need("patch")
    bin_folder, site = build_environment("p12y", sys.executable, P12Y)
    project = bin_folder.parent / "project"
    (project / "patches").mkdir(parents=True, exist_ok=True)
    (project / "patches" / f"neuralforecast+{RELEASE}.patch").write_text(diff)
    command = (bin_folder / "p12y", "apply", "--env-path", bin_folder.parent)
    return Subject(P12Y, site, (Row("p12y apply", command, project, BARE, "nfpatch apply"),))


def venv_patcher_subject(diff: str, training: Path) -> Subject:
    """venv-patcher: `git am` in the folder of the package, which it imports to find it."""
    need("git")
    python = training.absolute() / "bin" / "python"
    if not python.exists():
        raise NotRun("it imports neuralforecast, and --env names no environment that can")
    libraries = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    bin_folder, site = build_environment("venv-patcher", python, VENV_PATCHER, sees=libraries)
    probe = "import neuralforecast; print(neuralforecast.__file__)"
    imported = Row("probe", (bin_folder / "python", "-c", probe), BENCHMARKS, BARE).run().stdout.strip()
    if not Path(imported).is_relative_to(site):
        raise NotRun(f"it would patch another neuralforecast than its own: {imported}")
    mail = bin_folder.parent / "ddp.patch"  # the format of `git am`; its paths are relative to the package
    relative = diff.replace("--- a/neuralforecast/", "--- a/").replace("+++ b/neuralforecast/", "+++ b/")
    mail.write_text(f"From: nfpatch <nfpatch@localhost>\nSubject: [PATCH] Train under DDP\n\n{relative}")
    patches = mail.with_name("patches.yml")
    patches.write_text(f"version: 1\npatches:\n  - package: neuralforecast\n    path: {mail.name}\n")
    program = bin_folder / "venv-patcher"
    apply = Row("venv-patcher apply", (program, "apply", "-f", patches), BENCHMARKS, BARE, "nfpatch apply")
    reset = Row("venv-patcher reset", (program, "reset"), BENCHMARKS, BARE, "nfpatch revert")
    return Subject(VENV_PATCHER, site, (apply, reset))


def build_environment(
    name: str, python: object, *requirements: str, sees: Optional[Path] = None, release: str = RELEASE
) -> tuple[Path, Path]:
    """The `bin` and site-packages of a venv with neuralforecast and these packages, built unless it exists.

    `sees` is the site-packages folder of another environment, added to the venv's path only after pip has finished,
    so that pip does not count the packages there as installed.
    """
    venv = BENCHMARKS / name
    marker, made_of = venv / "made-of.json", json.dumps([str(python), release, requirements, str(sees)])
    if not (marker.exists() and marker.read_text() == made_of):
        print(f"Building {venv.relative_to(ROOT)}", file=sys.stderr, flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        run(python, "-m", "venv", "--without-pip", venv)
        (site,) = venv.glob("lib/python*/site-packages")
        pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet")
        run(*pip, "--no-deps", wheel_of(release))
        if requirements:
            run(*pip, *requirements)
        if sees is not None:
            (site / "training-environment.pth").write_text(f"{sees}\n")
        shutil.copytree(site, pristine_of(site), symlinks=True)
        marker.write_text(made_of)
    (site,) = venv.glob("lib/python*/site-packages")
    return venv / "bin", site


def pristine_of(site: Path) -> Path:
    """The path of the unchanged copy of a site-packages folder."""
    return site.with_name("site-packages.pristine")


def need(program: str) -> None:
    """Raise NotRun unless this program, which a tool runs, exists."""
    if shutil.which(program) is None:
        raise NotRun(f"it runs `{program}`, which is not on the path")


def snapshot(folder: Path) -> dict[str, object]:
    """Mode and content of everything below a folder, by path."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        content = None if path.is_dir() else os.readlink(path) if path.is_symlink() else path.read_bytes()
        found[path.relative_to(folder).as_posix()] = (path.lstat().st_mode, content)
    return found


def false_record_rows(site: Path) -> list[str]:
    """The paths in neuralforecast's RECORD that are missing or differ from their row."""
    (path,) = site.glob("neuralforecast-*.dist-info/RECORD")
    rows = record.parse(path.read_bytes(), str(path))
    present = {row: site / row[0] for row in rows if (site / row[0]).is_file()}
    return [row[0] for row in rows if row not in present] + [
        row[0] for row, file in present.items() if row[1] and row != record.row_for(row[0], file.read_bytes())
    ]


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The differences between two snapshots: `+` new, `-` removed, `~` changed; a new folder is one entry."""
    found = [f"- {name}" for name in before if name not in after]
    found += [f"~ {name}" for name in before if name in after and before[name] != after[name]]
    added = {name for name in after if name not in before}
    return found + [f"+ {name}" for name in sorted(added) if os.path.dirname(name) not in added]


def run(*command: object, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises NotRun, with its last output, if it fails."""
    answer = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        words = (answer.stderr or answer.stdout).strip().splitlines() or ["no output"]
        raise NotRun(f"`{Path(str(command[0])).name}` ended with exit code {answer.returncode}: {words[-1]}")
    return answer
