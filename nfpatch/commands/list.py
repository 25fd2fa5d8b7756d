"""`nfpatch list`: the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from nfpatch import console
from nfpatch.catalog import load_catalog
from nfpatch.commands.options import (
    JsonCommand,
    catalog_option,
    combine,
    json_option,
    reporting_errors,
)


@click.command("list", cls=JsonCommand)
@click.option("--group", metavar="GROUP", help="Only the patches of this group.")
@click.option("--release", metavar="VERSION", help="Only the patches that this release of neuralforecast needs.")
@combine(catalog_option, json_option, reporting_errors)
def command(group: Optional[str], release: Optional[str], patch_folders: tuple[Path, ...], as_json: bool) -> None:
    """List the patches by group, with the releases that they are for."""
    catalog = load_catalog(patch_folders)
    patches = catalog.patches if group is None else catalog.group(group)
    if release is not None:
        patches = tuple(patch for patch in patches if catalog.is_for(patch, release))
    if as_json:
        console.print_json(console.catalog_to_json(catalog, patches))
    else:
        console.print_catalog(catalog, patches)
