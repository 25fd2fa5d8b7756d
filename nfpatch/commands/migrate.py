"""`nfpatch migrate`: make saved models fit."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from nfpatch import console
from nfpatch.commands.options import (
    JsonCommand,
    Target,
    install_options,
    refuse_with_dry_run,
)


@click.command("migrate", cls=JsonCommand)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--dry-run", is_flag=True, help="Print what would be dropped and added, and write nothing.")
@click.option("--no-backup", is_flag=True, help="Do not keep the old files as FILE.nfpatch-backup.")
@click.option("--model", metavar="CLASS", help="Model class (e.g. TFT) for files that do not record it.")
@click.option("--trust", is_flag=True, help="Allow the files to execute code when loaded, as pickles can.")
@install_options
def command(
    paths: tuple[Path, ...],
    dry_run: bool,
    no_backup: bool,
    model: Optional[str],
    trust: bool,
    target: Target,
) -> None:
    """Convert saved models for the installed source, after apply, revert or an upgrade.

    PATH is a folder written by NeuralForecast.save, a single model file, or a Lightning checkpoint. Only the parameters
    that a patch removes are dropped or added; every other tensor stays bit-identical.
    """
    refuse_with_dry_run(dry_run, "--no-backup")
    from nfpatch.checkpoint import migration
    from nfpatch.checkpoint.report import print_migrations

    catalog = target.catalog()
    install = target.install()
    outcomes = migration.migrate(paths, install, catalog, model, trust, keep=not no_backup, dry_run=dry_run)
    if target.as_json:
        console.print_json({"files": [outcome.to_json() for outcome in outcomes]})
    else:
        print_migrations(install, outcomes, dry_run)
    exit_code = max(outcome.exit_code for outcome in outcomes)
    if exit_code:
        raise SystemExit(exit_code)
