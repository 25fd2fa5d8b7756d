"""The command line: finds the command and runs it. The commands are in `nfpatch.commands`."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Optional

import click

from nfpatch import __version__
from nfpatch.commands.options import JsonCommand, usage_errors_printed

SECTIONS = {
    "Inspect": ("list", "which", "status"),
    "Patch": ("apply", "revert"),
    "Prove": ("verify", "rehearse", "audit"),
    "Saved models": ("migrate",),
}


class _Sections(JsonCommand, click.Group):
    """The commands in sections, each imported when it is needed, which keeps the short ones fast."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, context: click.Context, name: str) -> Optional[click.Command]:
        if name not in self.list_commands(context):
            return None
        command: click.Command = import_module(f"nfpatch.commands.{name}").command
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        with usage_errors_printed(args):
            return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(context)))
        for heading, names in SECTIONS.items():
            commands = {name: self.get_command(context, name) for name in names}
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(limit=200))
                        for name, command in commands.items()
                        if command is not None
                    ]
                )


@click.group(cls=_Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nfpatch")
@click.pass_context
def main(context: click.Context) -> None:
    """Patch an installed neuralforecast that cannot train on several GPUs.

    Exit codes: 0 success, 1 a check failed, 2 usage error, 3 refused (nothing changed), 4 environment error.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
