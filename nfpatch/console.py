"""The output of `list`, `status`, `apply` and `revert`, and helpers for the reports of the other commands.

Results go to standard output; progress and errors go to standard error.
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

if TYPE_CHECKING:  # quick commands must not import more than they need
    from nfpatch.catalog import Catalog, Patch, Selection
    from nfpatch.installs.find import Install
    from nfpatch.patching.install_state import InstallState, PatchStatus
    from nfpatch.patching.operations import OperationResult
    from nfpatch.patching.plan import PartialPlan, TreeChange
    from nfpatch.patching.selection import Choice

SCHEMA_VERSION = 1
# The condition under which an ambiguous error message is a symptom of a patch's bug.
ONLY_IF = "only if it does not happen with one device"
# The least number of characters that a line must have left to print a reason in it.
MIN_REASON_WIDTH = 16

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
    """Print the JSON document of a command, with its schema version, on standard output."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2))


def print_catalog(catalog: Catalog, patches: Sequence[Patch]) -> None:
    """Print the output of `list`: these patches, by group."""
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
                *([("opt-in", "applied only by this id")] if patch.opt_in else []),
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
    """Words of an error message, with a condition if other errors have the same words."""
    return f"{words} ({ONLY_IF})" if words in patch.ambiguous else words


def affected_releases(catalog: Catalog, patch: Patch) -> list[str]:
    """The known releases that this patch has a variant for, oldest first."""
    return [release for release in catalog.releases if catalog.files_of(patch, release)]


def releases_in_words(catalog: Catalog, patch: Patch) -> str:
    """The affected releases as one or more ranges: `1.2.0 - 1.7.5`."""
    from nfpatch.fingerprints import spans_of

    spans = spans_of(affected_releases(catalog, patch), catalog.releases)
    return ", ".join(first if first == last else f"{first} - {last}" for first, last in spans) or "none known"


def state_to_json(state: InstallState, selection: Selection, changed: Sequence[str]) -> dict[str, object]:
    """The JSON document of `status`, and the first part of those of `apply` and `revert`."""
    return {
        "neuralforecast": state.install.to_json(),
        "patches": [state.status_of(patch).to_json() for patch in selection.patches],
        "skipped": reasons_to_json(selection.skipped),
        "changed": list(changed),
    }


def outcome_to_json(
    outcome: OperationResult, selection: Selection, choice: Choice, dry_run: bool, proof: Optional[dict[str, object]]
) -> dict[str, object]:
    """The JSON document of `apply` and `revert`: the state of every patch, and the changes."""
    changed = () if dry_run else outcome.changed
    everything = outcome.state.catalog.selection()._replace(skipped=selection.skipped)
    document = {
        **state_to_json(outcome.state, everything, changed),
        "brought_along": reasons_to_json(choice.brought_along),
        "renewed": list(_renewed(outcome, choice)),
        "left_out": reasons_to_json(outcome.left_out),
        "backups": [str(path) for path in outcome.backups],
    }
    if dry_run:
        document["diff"] = "".join(diff_lines(outcome.changes))
    if proof is not None:
        document["proof"] = proof
    return document


def reasons_to_json(reasons: Mapping[str, str]) -> list[dict[str, str]]:
    """Reasons by patch, as the JSON documents have them."""
    return [{"id": patch_id, "reason": reason} for patch_id, reason in reasons.items()]


def print_status(state: InstallState, selection: Selection, show_all: bool) -> None:
    """Print the output of `status`: the groups with the states of their patches, and what to do next."""
    from nfpatch.patching.selection import unmet

    print_install(state.install)
    statuses = [state.status_of(patch) for patch in selection.patches]
    _print_states(state.catalog, statuses, selection.ids, show_all)
    _print_reasons("skipped", selection.skipped)
    if state.ledger_problem is not None:
        print_error(state.ledger_problem)
    states = [status.state for status in unmet(state, selection)]
    if "interrupted" in states:
        click.echo("An interrupted run left its work unfinished. The next `nfpatch apply` or `revert` completes it.")
    if "outdated" in states:
        renewable = pluralize(states.count("outdated"), "patch was", "patches were")
        click.echo(f"{renewable} applied by another version of nfpatch. `nfpatch apply` renews them.")
    if "applicable" in states:
        click.echo(f"{pluralize(states.count('applicable'), 'patch is', 'patches are')} needed. Run `nfpatch apply`.")
    fitting = sum(status.state == "modified" and bool(status.variant_of) for status in unmet(state, selection))
    if fitting:
        fit = f"{pluralize(fitting, 'patch', 'patches')} that {'is' if fitting == 1 else 'are'} needed"
        click.echo(f"This source is not a release. It matches {fit}: `nfpatch apply --allow-modified --prove`.")
    elif "modified" in states or "unknown-release" in states:
        click.echo("It is not known whether this install works. `nfpatch apply --dry-run` shows what it would do.")
    if not states:
        applied = any(status.state == "applied" for status in statuses)
        click.echo("All needed patches are applied." if applied else "Nothing to do: no patch is needed.")


def print_outcome(outcome: OperationResult, selection: Selection, choice: Choice, verb: str) -> None:
    """Print the output of `apply` and `revert`: the states of the patches, and the changes."""
    print_install(outcome.state.install)
    patches = choice.patches or outcome.changed_patches
    _print_states(outcome.state.catalog, [outcome.state.status_of(patch) for patch in patches], selection.ids)
    print_choice(outcome, selection, choice)
    if outcome.recovered:
        click.echo("The unfinished work of an interrupted run was completed first.")
    if not outcome.changes:
        click.echo(f"Nothing to {verb}.")
        return
    for change in outcome.changes:
        if change.current != change.desired:
            what = "added" if change.current is None else "removed" if change.desired is None else "changed"
            click.echo(f"  {what:<7}  {outcome.state.install.file(change.file)}")
    for backup in outcome.backups:
        click.echo(f"  kept     {backup} (a copy of the edited file)")
    if verb == "apply":
        click.echo(
            f"{_changed_in_words(outcome)}. `nfpatch verify` proves it, `nfpatch revert` restores the originals."
        )
    else:
        click.echo(f"{_changed_in_words(outcome, 'restored')}.")
    # models that were saved before have parameters that their class no longer has, or lack new ones
    models = sorted({patch.model for patch in outcome.changed_patches if patch.removes_parameters})
    if models:
        click.echo(f"Models of {', '.join(models)} saved before this may not load: run `nfpatch migrate PATH...`.")


def _changed_in_words(outcome: OperationResult, verb: str = "changed") -> str:
    """The numbers of files that were changed, added and removed."""
    changes = [change for change in outcome.changes if change.current != change.desired]
    added, removed = (
        sum(change.current is None for change in changes),
        sum(change.desired is None for change in changes),
    )
    parts = {verb: len(changes) - added - removed, "added": added, "removed": removed}
    words = [f"{pluralize(number, 'file', 'files')} {how}" for how, number in parts.items() if number or how == verb]
    return ", ".join(words)


def _renewed(outcome: OperationResult, choice: Choice) -> tuple[str, ...]:
    """The outdated patches that were renewed, or would be in a dry run."""
    return outcome.state.catalog.ordered({*choice.renewed, *(patch.id for patch in outcome.renewed)})


def print_choice(outcome: OperationResult, selection: Selection, choice: Choice, err: bool = False) -> None:
    """Print a line for each patch that is brought along, renewed, skipped or left out."""
    renewed = dict.fromkeys(_renewed(outcome, choice), "it was applied by another version of nfpatch")
    _print_reasons("brought along", choice.brought_along, err)
    _print_reasons("renewed", renewed, err)
    _print_reasons("skipped", selection.skipped, err)
    _print_reasons("left out", outcome.left_out, err)


def describe_partial_plan(plan: PartialPlan) -> str:
    """How many of the needed patches fit a source that is not a release."""
    number = len(plan.patches)
    if plan.left_out:
        of_all = f"{number} of the {number + len(plan.left_out)} needed patches"
        return f"{of_all} {'fits' if number == 1 else 'fit'}"
    return "The only needed patch fits" if number == 1 else f"All {number} needed patches fit"


def _print_reasons(what: str, reasons: Mapping[str, str], err: bool = False) -> None:
    for patch_id, reason in reasons.items():
        print_wrapped(f"{what}: {patch_id} ({reason})", "  ", err)


def print_diff(changes: Iterable[TreeChange]) -> None:
    """Print the changes as a unified diff for `patch -p1`, including added and removed files."""
    for line in diff_lines(changes):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(line, fg=colour, nl=False)


def diff_lines(changes: Iterable[TreeChange]) -> list[str]:
    """The lines of the unified diff, with their line endings."""
    return [line for change in changes for line in unified_diff(change.file, change.current, change.desired)]


def unified_diff(file: str, before: Optional[bytes], after: Optional[bytes]) -> list[str]:
    """The lines of the unified diff of one file, with their line endings; None is a missing file."""
    import difflib

    old, new = ((text or b"").decode("utf-8", "replace").splitlines(keepends=True) for text in (before, after))
    old_name = "/dev/null" if before is None else f"a/{file}"
    new_name = "/dev/null" if after is None else f"b/{file}"
    lines = difflib.unified_diff(old, new, old_name, new_name)
    return [line if line.endswith(("\n", "\r")) else line + "\n\\ No newline at end of file\n" for line in lines]


def print_error(text: str) -> None:
    """Print an error as one paragraph on standard error."""
    click.secho(f"nfpatch: {text}", fg="red", err=True)


def print_note(text: str) -> None:
    """Print a note on standard error."""
    click.echo(text, err=True)


def print_traceback() -> None:
    """Print the traceback of the exception that is being handled."""
    import traceback

    click.echo(traceback.format_exc(), err=True)


def print_install(install: Install) -> None:
    """Print the first line of the output: the version and the location of the install."""
    from nfpatch.installs.origin import commit_of

    commit = commit_of(install)
    facts = [] if install.kind == "regular" else [f"{install.kind}: {install.package}"]
    facts += [f"commit {commit.short_id} of {commit.repository}"] if commit is not None else []
    where = f"{install.site_packages} ({', '.join(facts)})" if facts else install.site_packages
    click.echo(f"neuralforecast {install.version} in {where}")


def _print_states(
    catalog: Catalog, statuses: Sequence[PatchStatus], named: Iterable[str] = (), show_all: bool = False
) -> None:
    """Print the states by group. Patches that are not needed are only counted, unless `named` or `show_all`."""
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
    """The heading of a group, with its purpose."""
    how = "" if group in DEFAULT_GROUPS else f" (applied by name: `nfpatch apply {group}`)"
    purpose = f": {GROUPS[group]}" if group in GROUPS else ""
    first, *rest = textwrap.wrap(f"{group}{purpose}{how}", width, subsequent_indent="  ")
    return [click.style(group, bold=True) + first[len(group) :], *rest]


def _state_lines(status: PatchStatus, id_width: int, state_width: int, width: int) -> list[str]:
    """The lines for one patch. The reason is cut to one line unless the user has to act on it."""
    margin = " " * (2 + id_width + 2 + state_width + 2)
    is_narrow = width - len(margin) < MIN_REASON_WIDTH
    if is_narrow:
        margin = " " * 4
    room = max(width - len(margin), MIN_REASON_WIDTH)
    if len(status.reason) <= room:
        lines = [status.reason]
    elif status.state in ("applied", "applicable", "opt-in"):
        lines = [status.reason[: room - 3].rsplit(" ", 1)[0] + " ..."]
    else:
        lines = textwrap.wrap(status.reason, room, break_on_hyphens=False)
    state = click.style(status.state.ljust(state_width), fg=STATE_COLOURS[status.state])
    first_reason = "" if is_narrow else f"  {lines.pop(0)}"
    return [f"  {status.patch.id.ljust(id_width)}  {state}{first_reason}", *(margin + line for line in lines)]


def print_wrapped(text: str, indent: str, err: bool = False) -> None:
    """Print a text wrapped to the terminal, with a hanging indent."""
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
    """The width of the terminal in characters; 80 if there is no terminal.

    The same as `shutil.get_terminal_size`, whose import takes longer than a whole quick command.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        assert sys.__stdout__ is not None
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80
    except (AssertionError, OSError, ValueError):  # no terminal, or closed
        return 80


def pluralize(number: int, singular: str, plural: str) -> str:
    """A number with its noun: `1 file`, `2 files`."""
    return f"{number} {singular if number == 1 else plural}"
