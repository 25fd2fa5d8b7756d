"""The output of `migrate`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from nfpatch.checkpoint.migration import Migration
from nfpatch.console import STATE_COLOURS, pluralize, print_error, print_install
from nfpatch.installs.find import Install


def print_migrations(install: Install, outcomes: Sequence[Migration], dry_run: bool) -> None:
    """Print the output of `migrate`."""
    print_install(install)
    for outcome in outcomes:
        state = click.style(outcome.state.ljust(len("already-fits")), fg=STATE_COLOURS[outcome.state])
        click.echo(f"  {state}  {outcome.path}  {_changes_in(outcome)}".rstrip())
        if outcome.backup is not None:
            click.echo(f"  {'kept':<12}  {outcome.backup}")
    states = {outcome.state for outcome in outcomes}
    migrated = pluralize(sum(outcome.state == "migrated" for outcome in outcomes), "model file", "model files")
    if states == {"already-fits"}:
        click.echo("Nothing to do: the installed source can load them.")
    elif dry_run:
        click.echo(f"{migrated} would be migrated; nothing was written.")
    else:
        click.echo(f"{migrated} migrated.")
    for reason in dict.fromkeys(outcome.detail for outcome in outcomes if outcome.state == "refused"):
        print_error(reason)


def _changes_in(outcome: Migration) -> str:
    """The model, with the numbers of keys that were dropped and added."""
    changed = {"dropped": outcome.dropped, "added": outcome.added}
    changes = [f"{pluralize(len(keys), 'key', 'keys')} {verb}" for verb, keys in changed.items() if keys]
    if outcome.state == "already-fits" and outcome.detail:
        changes.append(outcome.detail)
    return ": ".join(filter(None, [outcome.model, ", ".join(changes)]))
