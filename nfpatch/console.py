"""What nfpatch prints, but for the reports of `verify`, `audit` and `migrate`, which lie in their wings.

The answer goes to standard output, progress and complaints to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Optional

import click

if TYPE_CHECKING:  # what is not imported for a quick command need not be imported to print its answer
    from nfpatch.catalog import Catalog, Patch
    from nfpatch.installs.find import Install
    from nfpatch.patching.operations import Outcome
    from nfpatch.patching.plan import TreeChange
    from nfpatch.patching.survey import Survey

STATE_COLOURS = {
    "applied": "green",
    "applicable": "yellow",
    "not-needed": "bright_black",
    "opt-in": "bright_black",
    "modified": "red",
    "outdated": "yellow",
    "unknown-release": "red",
    "interrupted": "red",
    "migrated": "green",
    "already-fits": "green",
    "refused": "red",
}


def print_json(document: object) -> None:
    """The one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2))


def print_catalog(catalog: Catalog) -> None:
    """The answer of `list`."""
    for number, patch in enumerate(catalog.patches):
        if number:
            click.echo()
        click.secho(patch.id, bold=True)
        click.echo(f"  {patch.summary}")
        for label, value in (
            ("model", patch.model),
            ("file" if len(patch.files) == 1 else "files", ", ".join(patch.files)),
            ("releases", releases_in_words(catalog, patch)),
            ("upstream", patch.upstream),
            *(("symptom", words) for words in patch.symptoms),
            *([("applied", "by name only: it changes what one process does")] if patch.opt_in else []),
        ):
            click.echo(f"  {label:<9} {value}")


def catalog_to_json(catalog: Catalog) -> object:
    """The JSON document of `list`."""
    return {
        "patches": [
            {
                "id": patch.id,
                "summary": patch.summary,
                "model": patch.model,
                "file": patch.files[0],
                "files": patch.files,
                "releases": affected_releases(catalog, patch),
                "upstream": patch.upstream,
                "symptoms": patch.symptoms,
                "opt_in": patch.opt_in,
            }
            for patch in catalog.patches
        ]
    }


def affected_releases(catalog: Catalog, patch: Patch) -> list[str]:
    """The known releases that this patch has a variant for, oldest first."""
    return [release for release in catalog.releases if catalog.files_of(patch, release)]


def releases_in_words(catalog: Catalog, patch: Patch) -> str:
    """The affected releases as a range, `1.2.0 - 1.7.5`; several ranges where there are gaps."""
    from nfpatch.fingerprints import spans_of

    spans = spans_of(affected_releases(catalog, patch), catalog.releases)
    return ", ".join(first if first == last else f"{first} - {last}" for first, last in spans) or "none known"


def state_to_json(found: Survey, changed: Sequence[str]) -> dict[str, object]:
    """The JSON document of `status`, `apply` and `revert`."""
    return {
        "neuralforecast": found.install.to_json(),
        "patches": [status.to_json() for status in found.statuses],
        "changed": list(changed),
    }


def print_status(found: Survey) -> None:
    """The answer of `status`."""
    print_install(found.install)
    _print_states(found, found.catalog.patches)
    states = [status.state for status in found.statuses]
    if found.ledger_problem is not None:
        complain(found.ledger_problem)
    if "interrupted" in states:
        say("A killed run left work half done. The next `nfpatch apply` or `nfpatch revert` heals it.")
    elif "applicable" in states:
        say(f"{count(states.count('applicable'), 'patch is', 'patches are')} needed. Run `nfpatch apply`.")
    elif "outdated" in states:
        is_or_are = count(states.count("outdated"), "patch is", "patches are")
        say(f"{is_or_are} outdated: another version of nfpatch applied them. Run `nfpatch apply`.")
    elif "modified" in states or "unknown-release" in states:
        say("nfpatch cannot tell by itself whether this install is healthy. Try `nfpatch apply --dry-run`.")
    else:
        applied = states.count("applied")
        say("Healed: it has every patch that it needs." if applied else "Nothing to do: it needs no patch.")


def print_outcome(outcome: Outcome, patches: Sequence[Patch], verb: str) -> None:
    """The answer of `apply` and `revert`: the state of the patches in question, and what changed."""
    print_install(outcome.found.install)
    _print_states(outcome.found, patches)
    if outcome.recovered:
        say("The work that a killed run left half done was brought to its end first.")
    if not outcome.changes:
        say(f"Nothing to {verb}.")
        return
    for file in outcome.changed:
        click.echo(f"  changed  {outcome.found.install.file(file)}")
    for saved in outcome.saved:
        click.echo(f"  saved    {saved} (what stood there, with the edits that were made after nfpatch)")
    if verb == "apply":
        patched = count(len(outcome.changed), "file", "files")
        say(f"{patched} patched. `nfpatch verify` proves it, `nfpatch revert` takes it back.")
    else:
        say(f"{count(len(outcome.changed), 'file', 'files')} restored.")
    # Models that were saved before have other parameters than their class has now.
    models = sorted({patch.model for patch in outcome.moved if patch.removes_parameters})
    if models:
        say(f"Saved models of {', '.join(models)} need `nfpatch migrate PATH...`, or they do not load.")


def print_diff(changes: Iterable[TreeChange]) -> None:
    """The changes as a unified diff that `patch -p1` takes, which adds and removes files as well."""
    for line in diff_lines(changes):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(line, fg=colour, nl=False)


def diff_lines(changes: Iterable[TreeChange]) -> list[str]:
    """The lines of the unified diff, each with its ending."""
    return [line for change in changes for line in unified_diff(change.file, change.now, change.then)]


def unified_diff(file: str, before: Optional[bytes], after: Optional[bytes]) -> list[str]:
    """The lines of the unified diff of one file, each with its ending; None where there is no such file."""
    import difflib

    old, new = ((text or b"").decode("utf-8", "replace").splitlines(keepends=True) for text in (before, after))
    old_name = "/dev/null" if before is None else f"a/{file}"
    new_name = "/dev/null" if after is None else f"b/{file}"
    lines = difflib.unified_diff(old, new, old_name, new_name)
    return [line if line.endswith(("\n", "\r")) else line + "\n\\ No newline at end of file\n" for line in lines]


def complain(text: str) -> None:
    """An error, as one paragraph on standard error."""
    click.secho(f"nfpatch: {text}", fg="red", err=True)


def print_traceback() -> None:
    """Where the error that is being handled comes from."""
    import traceback

    click.echo(traceback.format_exc(), err=True)


def print_install(install: Install) -> None:
    """The line above every answer: which neuralforecast is meant."""
    kind = "" if install.kind == "regular" else f" ({install.kind}: {install.package})"
    click.echo(f"neuralforecast {install.version} in {install.site_packages}{kind}")


def _print_states(found: Survey, patches: Sequence[Patch]) -> None:
    statuses = [found.status_of(patch) for patch in patches]
    id_width = max((len(status.patch.id) for status in statuses), default=0)
    state_width = max((len(status.state) for status in statuses), default=0)
    for status in statuses:
        state = click.style(status.state.ljust(state_width), fg=STATE_COLOURS[status.state])
        click.echo(f"  {status.patch.id.ljust(id_width)}  {state}  {status.reason}")


def say(sentence: str) -> None:
    """A sentence of the answer."""
    click.echo(sentence)


def count(number: int, singular: str, plural: str) -> str:
    """A number with its noun."""
    return f"{number} {singular if number == 1 else plural}"
