"""`nfpatch revert`: restore the originals."""

from __future__ import annotations

import click

from nfpatch.commands.options import (
    JsonCommand,
    Target,
    force_option,
    install_options,
    lock_option,
    names_argument,
    print_outcome,
    refuse_with_dry_run,
)
from nfpatch.patching.install_state import inspect_install


@click.command("revert", cls=JsonCommand)
@names_argument
@click.option("--dry-run", is_flag=True, help="Print the unified diff and write nothing.")
@force_option
@lock_option
@install_options
def command(names: tuple[str, ...], dry_run: bool, force: bool, lock_timeout: float, target: Target) -> None:
    """Restore the originals, byte for byte: revert all applied patches, or the named groups and patches."""
    refuse_with_dry_run(dry_run, "--lock-timeout")
    from nfpatch.patching import operations
    from nfpatch.patching.selection import Choice, choice_for_revert

    catalog = target.catalog()
    selection = catalog.selection(names)
    install = target.install()
    seen = None if selection.is_default else inspect_install(install, catalog)
    choice = Choice(()) if seen is None else choice_for_revert(seen, selection)
    outcome = operations.revert(install, catalog, choice.patches, force, dry_run, lock_timeout, seen)
    print_outcome(outcome, selection, choice, "revert", dry_run, target.as_json)
