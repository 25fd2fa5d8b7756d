"""The output of `which`: the lines with errors, the patches that fix them, and the commands to run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Optional

import click

from nfpatch.catalog import Catalog
from nfpatch.console import STATE_COLOURS, print_install, print_wrapped, releases_in_words
from nfpatch.installs.find import Install
from nfpatch.which.logs import Line
from nfpatch.which.matching import Diagnosis, Match, abbreviate

# How many characters of a line are shown, and how many patches for one error are named before their group is.
_MAX_CHARACTERS = 200
_MAX_PATCHES = 3
_NEXT_STEPS = (
    "`nfpatch rehearse SCRIPT` runs your script in several CPU processes, shortened, and reports for each call what "
    "differs from a single process, and which patch fixes it. docs/concepts/several-devices.md lists what works with "
    "which launcher, docs/results/catalog.md what each patch fixes; many of these bugs raise no error."
)


def diagnosis_to_json(diagnosis: Diagnosis, install: Optional[Install], options: Sequence[str]) -> dict[str, object]:
    """The JSON document of `which`."""
    return {
        "neuralforecast": None if install is None else install.to_json(),
        "matches": [match.to_json() for match in diagnosis.matches],
        "unknown_parameters": list(diagnosis.unknown),
        "commands": commands_for(diagnosis, options),
    }


def commands_for(diagnosis: Diagnosis, options: Sequence[str]) -> list[str]:
    """The commands to run, with the options that name the install."""
    plain: list[str] = []
    modified: list[str] = []
    unknown: list[str] = []
    for match in diagnosis.matches:
        if match.state in (None, "applicable", "opt-in", "outdated", "interrupted"):
            plain.append(match.patch.id)
        elif match.state == "modified":
            modified.append(match.patch.id)
        elif match.state == "unknown-release":
            unknown.append(match.patch.id)
    commands = []
    for ids, more in ((plain, ()), (modified, ("--allow-modified",)), (unknown, ("--allow-modified", "--prove"))):
        if ids:
            commands.append(" ".join(["nfpatch", "apply", *_named(diagnosis, ids), *more, *options]))
    return commands


def _named(diagnosis: Diagnosis, ids: Sequence[str]) -> Sequence[str]:
    """These ids, or the name of their group if the log fits many patches of one group."""
    groups = {match.patch.group for match in diagnosis.matches if match.patch.id in ids}
    is_undecided = diagnosis.unnamed is not None and len(ids) > _MAX_PATCHES
    return [*groups] if is_undecided and len(groups) == 1 else ids


def print_diagnosis(
    diagnosis: Diagnosis, catalog: Catalog, install: Optional[Install], missing: str, options: Sequence[str]
) -> None:
    """Print the answer as text. `missing` says why there is no install, if there is none."""
    if install is not None:
        print_install(install)
    for _, group in groupby(diagnosis.matches, key=lambda match: match.line):
        _print_matches(catalog, list(group))
    if diagnosis.unknown:
        print_wrapped(
            f"No patch is known for these unused parameters: {abbreviate(diagnosis.unknown)}. "
            "If the layer is your own, remove it or freeze it: `layer.requires_grad_(False)`.",
            "",
        )
    if diagnosis.unnamed is not None and len(diagnosis.matches) != 1:
        print_wrapped(_how_to_find_names(diagnosis.unnamed), "")
    commands = commands_for(diagnosis, options)
    if commands:
        click.echo("Run")
    for command in commands:
        click.echo(f"  {command}")
    if install is None and commands:
        print_wrapped(f"nfpatch does not know whether your install needs or has them: {missing}", "")
    if any(match.state == "applied" for match in diagnosis.matches) and not commands:
        print_wrapped(
            "All known patches for it are applied to this install. If your run started after that, check that it "
            "uses this install; `nfpatch rehearse SCRIPT` shows remaining problems.",
            "",
        )
    if not diagnosis.ok:
        print_wrapped(f"{_why_none(diagnosis)} {_NEXT_STEPS}", "")


def _why_none(diagnosis: Diagnosis) -> str:
    """The reason why no patch helps."""
    if diagnosis.matches:
        return "This install needs none of these patches."
    if diagnosis.unnamed is not None:
        return "No patch is known for unused parameters of a model with the layers in this log."
    if diagnosis.is_about_saved_model:
        return "A saved model has other parameters than its class: `nfpatch migrate PATH`, docs/how-to/saved-models.md."
    return "No patch is known for this text."


def _how_to_find_names(refusal: Line) -> str:
    """How to find the names of the unused parameters if the log does not have them."""
    names = "The log does not name the parameters. `nfpatch rehearse SCRIPT` and `nfpatch audit MODEL` do"
    if "LightningModule" in refusal.text:  # Lightning 2 replaces the message of torch, including the names
        return f"{names}; TORCH_DISTRIBUTED_DEBUG does not with Lightning 2."
    return f"{names}, and so does a second run with TORCH_DISTRIBUTED_DEBUG=INFO."


def _print_matches(catalog: Catalog, matches: Sequence[Match]) -> None:
    """Print a line of the log, and the patches for it."""
    text = matches[0].text.strip()
    shown = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " ..."
    print_wrapped(f"line {matches[0].line}: {shown}", "")
    width = max(len(match.patch.id) for match in matches)
    for match in matches:
        name = click.style(match.patch.id.ljust(width), bold=True)
        state = "" if match.state is None else click.style(match.state, fg=STATE_COLOURS[match.state]) + "  "
        if match.state is None:
            reason = f"{match.patch.summary} ({releases_in_words(catalog, match.patch)})"
        else:
            reason = match.patch.summary if match.state in ("applicable", "applied", "opt-in") else match.reason
        click.echo(f"  {name}  {state}{reason}")
    for condition in dict.fromkeys(match.only_if for match in matches if match.only_if):
        click.echo(f"  ({condition})")
