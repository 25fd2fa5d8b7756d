"""What nfpatch prints, but for the reports of `verify`, `audit` and `migrate`, which are in their own packages.

The answer goes to standard output, progress and complaints to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Optional

import click

from nfpatch.catalog import DEFAULT_GROUPS, GROUPS

if TYPE_CHECKING:  # what is not imported for a quick command need not be imported to print its answer
    from nfpatch.catalog import Catalog, Patch, Selection
    from nfpatch.installs.find import Install
    from nfpatch.patching.operations import Outcome
    from nfpatch.patching.plan import Fit, TreeChange
    from nfpatch.patching.selection import Choice
    from nfpatch.patching.survey import PatchStatus, Survey

SCHEMA_VERSION = 1
# The condition under which an error with ambiguous words is that of a patch.
ONLY_IF = "only if it does not happen with one device"
# Characters that a line must have left for a reason to stand in it.
LEAST_ROOM = 16

STATE_COLOURS = {
    "applied": "green",
    "applicable": "yellow",
    "not-needed": "bright_black",
    "opt-in": "bright_black",
    "outdated": "yellow",
    "modified": "red",
    "unknown-release": "red",
    "interrupted": "red",
    "migrated": "green",
    "already-fits": "green",
    "refused": "red",
}


def print_json(document: Mapping[str, object]) -> None:
    """The one JSON document on standard output, with the version of its form."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2))


def print_catalog(catalog: Catalog, patches: Sequence[Patch]) -> None:
    """The answer of `list`: these patches, by group."""
    shown = {patch.id for patch in patches}
    for group, members in catalog.groups.items():
        own = [patch for patch in members if patch.id in shown]
        if own:
            click.echo("\n".join(_heading(group, _width())))
        for patch in own:
            click.secho(f"\n  {patch.id}", bold=True)
            print_wrapped(patch.summary, "    ")
            for label, value in (
                ("model", patch.model),
                ("file" if len(patch.files) == 1 else "files", ", ".join(patch.files)),
                ("releases", releases_in_words(catalog, patch)),
                ("upstream", patch.upstream),
                *([("requires", ", ".join(patch.requires))] if patch.requires else []),
                *(("symptom", symptom_in_words(patch, words)) for words in patch.symptoms),
                *([("opt-in", "applied by this id only")] if patch.opt_in else []),
            ):
                click.echo(f"    {label:<9} {value}")
        if own:
            click.echo()


def catalog_to_json(catalog: Catalog, patches: Sequence[Patch]) -> dict[str, object]:
    """The JSON document of `list`."""
    return {
        "groups": [
            {"name": group, "purpose": GROUPS.get(group, ""), "default": group in DEFAULT_GROUPS}
            for group in catalog.groups
        ],
        "patches": [
            {
                "id": patch.id,
                "group": patch.group,
                "summary": patch.summary,
                "model": patch.model,
                "files": patch.files,
                "releases": affected_releases(catalog, patch),
                "upstream": patch.upstream,
                "symptoms": patch.symptoms,
                "ambiguous": patch.ambiguous,
                "requires": patch.requires,
                "opt_in": patch.opt_in,
            }
            for patch in patches
        ],
    }


def symptom_in_words(patch: Patch, words: str) -> str:
    """Words of an error, with the condition under which it is that of the patch."""
    return f"{words} ({ONLY_IF})" if words in patch.ambiguous else words


def affected_releases(catalog: Catalog, patch: Patch) -> list[str]:
    """The known releases that this patch has a variant for, oldest first."""
    return [release for release in catalog.releases if catalog.files_of(patch, release)]


def releases_in_words(catalog: Catalog, patch: Patch) -> str:
    """The affected releases as a range, `1.2.0 - 1.7.5`; several ranges where there are gaps."""
    from nfpatch.fingerprints import spans_of

    spans = spans_of(affected_releases(catalog, patch), catalog.releases)
    return ", ".join(first if first == last else f"{first} - {last}" for first, last in spans) or "none known"


def state_to_json(found: Survey, selection: Selection, changed: Sequence[str]) -> dict[str, object]:
    """The JSON document of `status`, and what those of `apply` and `revert` begin with."""
    return {
        "neuralforecast": found.install.to_json(),
        "patches": [found.status_of(patch).to_json() for patch in selection.patches],
        "skipped": _reasons_to_json(selection.skipped),
        "changed": list(changed),
    }


def outcome_to_json(
    outcome: Outcome, selection: Selection, choice: Choice, dry_run: bool, proof: Optional[dict[str, object]]
) -> dict[str, object]:
    """The JSON document of `apply` and `revert`: the state of every patch, and what changed."""
    changed = () if dry_run else outcome.changed
    everything = outcome.found.catalog.selection()._replace(skipped=selection.skipped)
    document = {
        **state_to_json(outcome.found, everything, changed),
        "brought_along": _reasons_to_json(choice.brought_along),
        "renewed": list(_renewed(outcome, choice)),
        "left_out": _reasons_to_json(outcome.left_out),
        "saved": [str(path) for path in outcome.saved],
    }
    if dry_run:
        document["diff"] = "".join(diff_lines(outcome.changes))
    if proof is not None:
        document["proof"] = proof
    return document


def _reasons_to_json(reasons: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"id": patch_id, "reason": reason} for patch_id, reason in reasons.items()]


def print_status(found: Survey, selection: Selection, show_all: bool) -> None:
    """The answer of `status`: by group what it is for and the state of its patches, and what to do."""
    from nfpatch.patching.selection import unmet

    print_install(found.install)
    statuses = [found.status_of(patch) for patch in selection.patches]
    _print_states(found.catalog, statuses, selection.ids, show_all)
    _print_reasons("skipped", selection.skipped)
    if found.ledger_problem is not None:
        complain(found.ledger_problem)
    states = [status.state for status in unmet(found, selection)]
    if "interrupted" in states:
        say("A killed run left work half done. The next `nfpatch apply` or `nfpatch revert` completes it.")
    if "outdated" in states:
        renewable = count(states.count("outdated"), "patch was", "patches were")
        say(f"{renewable} applied by another version of nfpatch. `nfpatch apply` renews them.")
    if "applicable" in states:
        say(f"{count(states.count('applicable'), 'patch is', 'patches are')} needed. Run `nfpatch apply`.")
    fitting = sum(status.state == "modified" and bool(status.variant_of) for status in unmet(found, selection))
    if fitting:
        fit = f"{count(fitting, 'patch', 'patches')} that {'is' if fitting == 1 else 'are'} needed"
        say(f"This source is not a released one. Its code fits {fit}: `nfpatch apply --allow-modified --prove`.")
    elif "modified" in states or "unknown-release" in states:
        say("nfpatch cannot tell by itself whether this install is sound. Try `nfpatch apply --dry-run`.")
    if not states:
        applied = any(status.state == "applied" for status in statuses)
        say("Patched: it has every patch that it needs." if applied else "Nothing to do: it needs no patch.")


def print_outcome(outcome: Outcome, selection: Selection, choice: Choice, verb: str) -> None:
    """The answer of `apply` and `revert`: the state of the patches in question, and what changed."""
    print_install(outcome.found.install)
    patches = choice.patches or outcome.moved
    _print_states(outcome.found.catalog, [outcome.found.status_of(patch) for patch in patches], selection.ids)
    print_choice(outcome, selection, choice)
    if outcome.recovered:
        say("What a killed run had left half done was completed first.")
    if not outcome.changes:
        say(f"Nothing to {verb}.")
        return
    for change in outcome.changes:
        if change.now != change.then:
            what = "added" if change.now is None else "removed" if change.then is None else "changed"
            click.echo(f"  {what:<7}  {outcome.found.install.file(change.file)}")
    for saved in outcome.saved:
        click.echo(f"  saved    {saved} (what stood there, with the edits that were made after nfpatch)")
    if verb == "apply":
        say(f"{_changed_in_words(outcome)}. `nfpatch verify` proves it, `nfpatch revert` restores the originals.")
    else:
        say(f"{_changed_in_words(outcome, 'restored')}.")
    # Models that were saved before have other parameters than their class has now.
    models = sorted({patch.model for patch in outcome.moved if patch.removes_parameters})
    if models:
        say(f"Saved models of {', '.join(models)} need `nfpatch migrate PATH...`, or they do not load.")


def _changed_in_words(outcome: Outcome, verb: str = "changed") -> str:
    """How many files were changed, added and removed."""
    changes = [change for change in outcome.changes if change.now != change.then]
    added, removed = sum(change.now is None for change in changes), sum(change.then is None for change in changes)
    parts = {verb: len(changes) - added - removed, "added": added, "removed": removed}
    words = [f"{count(number, 'file', 'files')} {how}" for how, number in parts.items() if number or how == verb]
    return ", ".join(words)


def _renewed(outcome: Outcome, choice: Choice) -> tuple[str, ...]:
    """The patches that were applied by another version of nfpatch and are written again, or would be."""
    return outcome.found.catalog.ordered({*choice.renewed, *(patch.id for patch in outcome.renewed)})


def print_choice(outcome: Outcome, selection: Selection, choice: Choice, err: bool = False) -> None:
    """A line for each patch that is in question though it was not named, that is renewed, or that is left out."""
    renewed = dict.fromkeys(_renewed(outcome, choice), "another version of nfpatch had applied it")
    _print_reasons("brought along", choice.brought_along, err)
    _print_reasons("renewed", renewed, err)
    _print_reasons("skipped", selection.skipped, err)
    _print_reasons("left out", outcome.left_out, err)


def fit_in_words(fit: Fit) -> str:
    """How many of the patches that are needed fit a source that is not a released one."""
    number = len(fit.patches)
    if fit.left_out:
        of_all = f"{number} of the {number + len(fit.left_out)} patches that are needed"
        return f"{of_all} {'fits' if number == 1 else 'fit'}"
    return "The one patch that is needed fits" if number == 1 else f"All {number} patches that are needed fit"


def _print_reasons(what: str, reasons: Mapping[str, str], err: bool = False) -> None:
    for patch_id, reason in reasons.items():
        print_wrapped(f"{what}: {patch_id} ({reason})", "  ", err)


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


def note(text: str) -> None:
    """A remark, on standard error."""
    click.echo(text, err=True)


def print_traceback() -> None:
    """Where the error that is being handled comes from."""
    import traceback

    click.echo(traceback.format_exc(), err=True)


def print_install(install: Install) -> None:
    """The line above every answer: which neuralforecast is meant."""
    from nfpatch.installs.origin import commit_of

    commit = commit_of(install)
    facts = [] if install.kind == "regular" else [f"{install.kind}: {install.package}"]
    facts += [f"commit {commit.short_id} of {commit.repository}"] if commit is not None else []
    where = f"{install.site_packages} ({', '.join(facts)})" if facts else install.site_packages
    click.echo(f"neuralforecast {install.version} in {where}")


def _print_states(
    catalog: Catalog, statuses: Sequence[PatchStatus], named: Iterable[str] = (), show_all: bool = False
) -> None:
    """The states by group. What is not needed is counted, unless it was `named` or all is to be shown."""
    id_width = max((len(status.patch.id) for status in statuses), default=0)
    state_width = max((len(status.state) for status in statuses), default=0)
    width = _width()
    for group in catalog.groups:
        own = [status for status in statuses if status.patch.group == group]
        shown = [s for s in own if show_all or s.state != "not-needed" or s.patch.id in named]
        lines = _heading(group, width) if own else []
        lines += [line for status in shown for line in _state_lines(status, id_width, state_width, width)]
        if len(shown) < len(own):
            lines.append(f"  {len(own) - len(shown)} not needed")
        if lines:
            click.echo("\n".join(lines))


def _heading(group: str, width: int) -> list[str]:
    """The heading of a group, with what it is for."""
    how = "" if group in DEFAULT_GROUPS else f" (applied by name: `nfpatch apply {group}`)"
    purpose = f": {GROUPS[group]}" if group in GROUPS else ""
    first, *rest = textwrap.wrap(f"{group}{purpose}{how}", width, subsequent_indent="  ")
    return [click.style(group, bold=True) + first[len(group) :], *rest]


def _state_lines(status: PatchStatus, id_width: int, state_width: int, width: int) -> list[str]:
    """One patch: what is as it should be in one line, cut at the end of the terminal; a reason to act in full."""
    margin = " " * (2 + id_width + 2 + state_width + 2)
    is_narrow = width - len(margin) < LEAST_ROOM
    if is_narrow:
        margin = " " * 4
    room = max(width - len(margin), LEAST_ROOM)
    if len(status.reason) <= room:
        lines = [status.reason]
    elif status.state in ("applied", "applicable", "opt-in"):
        lines = [status.reason[: room - 3].rsplit(" ", 1)[0] + " ..."]
    else:
        lines = textwrap.wrap(status.reason, room, break_on_hyphens=False)
    state = click.style(status.state.ljust(state_width), fg=STATE_COLOURS[status.state])
    beside = "" if is_narrow else f"  {lines.pop(0)}"
    return [f"  {status.patch.id.ljust(id_width)}  {state}{beside}", *(margin + line for line in lines)]


def print_wrapped(text: str, indent: str, err: bool = False) -> None:
    """A text in as many lines as it takes, the first after `indent`, the others somewhat further in."""
    lines = textwrap.wrap(
        text,
        _width(),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        click.echo(line, err=err)


def _width() -> int:
    """How many characters a line has room for: those of the terminal, 80 where there is none.

    As `shutil.get_terminal_size` finds it, the import of which takes longer than a whole answer of ours.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        assert sys.__stdout__ is not None
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80
    except (AssertionError, OSError, ValueError):  # no terminal, or closed
        return 80


def say(sentence: str) -> None:
    """A sentence of the answer."""
    click.echo(sentence)


def count(number: int, singular: str, plural: str) -> str:
    """A number with its noun."""
    return f"{number} {singular if number == 1 else plural}"
