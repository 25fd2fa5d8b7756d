"""`nfpatch status`: what an install needs and has."""

from __future__ import annotations

import click

from nfpatch import console
from nfpatch.commands.options import (
    JsonCommand,
    Target,
    install_options,
    names_argument,
    skip_option,
)
from nfpatch.errors import UsageError
from nfpatch.patching.install_state import inspect_install


@click.command("status", cls=JsonCommand)
@names_argument
@skip_option
@click.option("--check", is_flag=True, help="Exit with code 1 unless all needed patches are applied.")
@click.option("--all", "show_all", is_flag=True, help="Also list the patches that are not needed.")
@install_options
def command(names: tuple[str, ...], skip: tuple[str, ...], check: bool, show_all: bool, target: Target) -> None:
    """Show which patches the install needs and has. Changes nothing.

    --check considers the default groups (or the named ones) and all applied patches.
    """
    from nfpatch.patching.selection import unmet

    if show_all and target.as_json:
        raise UsageError("--json always lists every patch: remove --all.")
    catalog = target.catalog()
    selection = catalog.selection(names, skip)
    state = inspect_install(target.install(), catalog)
    if target.as_json:
        console.print_json(console.state_to_json(state, selection, changed=()))
    else:
        console.print_status(state, selection, show_all)
    if check and unmet(state, selection):
        raise SystemExit(1)
