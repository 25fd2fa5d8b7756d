"""`nfpatch rehearse`: run a training script in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nfpatch import console
from nfpatch.commands.options import (
    SOURCE,
    JsonCommand,
    Target,
    check_report_files,
    install_options,
    is_given,
    report_files,
    timeout_option,
)
from nfpatch.errors import UsageError

REHEARSAL_TIMEOUT_SECONDS = 600.0
REHEARSED_STEPS = 4


@click.command(
    "rehearse", cls=JsonCommand, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]...")
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module name, as in `python -m`.")
@click.option(
    "--devices", type=click.IntRange(min=2), default=2, show_default=True, metavar="N", help="Number of processes."
)
@click.option(
    "--launcher",
    type=click.Choice(["script", "torchrun"]),
    default="script",
    show_default=True,
    help="What starts the processes: Lightning as for `python SCRIPT`, or torchrun.",
)
@click.option(
    "--source",
    type=SOURCE,
    default="installed",
    show_default=True,
    help="Which neuralforecast to use: as released, as installed, or as `apply` would patch it. Nothing is written.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(min=2),
    default=REHEARSED_STEPS,
    show_default=True,
    metavar="N",
    help="Number of steps of each training; DDP reports unused parameters at the second.",
)
@click.option("--as-is", is_flag=True, help="Do not shorten anything: override only accelerator and devices.")
@click.option("--show-output", is_flag=True, help="Show the script's output on standard error.")
@timeout_option(REHEARSAL_TIMEOUT_SECONDS, "Time limit of the whole script. Processes still running are terminated.")
@report_files
@install_options
def command(
    script: str,
    arguments: tuple[str, ...],
    is_module: bool,
    devices: int,
    launcher: Any,
    source: Any,
    max_steps: int,
    as_is: bool,
    show_output: bool,
    timeout: float,
    junit_xml: Path | None,
    html: Path | None,
    target: Target,
) -> None:
    """Run your training script in several CPU processes. The script really runs, including any files it writes.

    Its trainings are cut to a few steps and its searches to two trials; strategy, loss, features, data and callbacks
    stay as they are. The result of each call of neuralforecast is recorded on every rank and compared with a
    single-process reference. Put nfpatch's options before SCRIPT; everything after it goes to the script.
    """
    from nfpatch.engine.report import write_files
    from nfpatch.rehearsal import report as rehearsal_report
    from nfpatch.rehearsal import run

    if as_is and is_given("--max-steps"):
        raise UsageError("--max-steps has no effect with --as-is: remove one of them.")
    check_report_files(junit_xml, html)
    state = target.install_state()
    what = run.Script(script, arguments, is_module)
    steps = None if as_is else max_steps
    output = (lambda printed: click.echo(printed, nl=False, err=True)) if show_output else None
    with rehearsal_report.progress(what, devices) as on_event:
        report = run.rehearse(state, what, source, devices, launcher, steps, timeout, on_event, output)
    write_files(rehearsal_report.document_of(state.install, what, report), junit_xml, html)
    if target.as_json:
        console.print_json({**report.to_json(), "neuralforecast": state.install.to_json()})
    else:
        rehearsal_report.print_report(state.install, what, report)
    if not report.ok:
        raise SystemExit(1)
