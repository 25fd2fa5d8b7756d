"""`nfpatch which`: from an error to its patches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import click

from nfpatch import console
from nfpatch.commands.options import (
    JsonCommand,
    Target,
    install_options,
)
from nfpatch.errors import InstallEnvironmentError, NfpatchError, UsageError
from nfpatch.patching.install_state import inspect_install


@click.command("which", cls=JsonCommand)
@click.argument("log", required=False, metavar="[LOG|-]")
@install_options
def command(log: Optional[str], target: Target) -> None:
    """Find the patches that fix the error in a log, a traceback or a single line.

    LOG is a file or the text itself; without it, or with -, standard input is read. Error messages are matched with the
    symptoms in the catalog, unused parameters by their names. If there is an install, the output also says which of the
    patches it needs and has.
    """
    from nfpatch.which import report
    from nfpatch.which.logs import Log
    from nfpatch.which.matching import diagnose

    text = _text_of(log)
    catalog = target.catalog()
    install, missing = None, ""
    try:
        install = target.install()
    except NfpatchError as error:
        if target.options:  # one was named
            raise
        missing = str(error)
    diagnosis = diagnose(Log(text), catalog, None if install is None else inspect_install(install, catalog))
    if target.as_json:
        console.print_json(report.diagnosis_to_json(diagnosis, install, target.options))
    else:
        report.print_diagnosis(diagnosis, catalog, install, missing, target.options)
    if not diagnosis.ok:
        raise SystemExit(1)


def _text_of(log: Optional[str]) -> str:
    """The text that `which` is given: a file, standard input, or the argument itself."""
    if log in (None, "-"):
        if sys.stdin.isatty():
            console.print_note("Paste the log, then press Ctrl-D.")
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    assert log is not None
    path = Path(log)
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except IsADirectoryError as error:
        raise UsageError(f"{log} is a folder. Name a log file.") from error
    except OSError as error:
        if isinstance(error, PermissionError):
            raise InstallEnvironmentError(
                f"Cannot read {log}: permission denied. Re-run as a user with read access."
            ) from error
        is_name = "." in log and path.suffix not in (".log", ".txt", ".out", ".err")
        if is_name or log.endswith("Error") or any(character.isspace() for character in log):
            return log
        raise UsageError(f"There is no file {log}. Name a log file, or quote the error message.") from error
