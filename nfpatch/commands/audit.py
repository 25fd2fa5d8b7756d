"""`nfpatch audit`: find unused parameters."""

from __future__ import annotations

import click

from nfpatch import console
from nfpatch.commands.options import JsonCommand, Target, answer_options, combine, place_options, timeout_option

AUDIT_TIMEOUT_SECONDS = 900.0


@click.command("audit", cls=JsonCommand)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--ddp", is_flag=True, help="Train each configuration by DDP in two processes.")
@timeout_option(AUDIT_TIMEOUT_SECONDS, "Time limit of the whole audit. Trainings that still run then are terminated.")
@combine(place_options, answer_options)
def command(models: tuple[str, ...], ddp: bool, timeout: float, target: Target) -> None:
    """Find unused parameters in all models of the install, or in the named ones.

    Each model is trained for a few steps with each kind of loss, with each kind of exogenous features and with each
    option that changes its layers, by the interpreter that --python names (default: this one), on the CPU. The
    installed source is audited as it is, patched or not.
    """
    from nfpatch.audit import report as audit_report
    from nfpatch.audit.run import agenda_for, run_audit

    install = target.install()
    agenda = agenda_for(install, models)
    with audit_report.progress(agenda) as on_event:
        report = run_audit(agenda, install, ddp, timeout, on_event)
    if target.as_json:
        console.print_json({**report.to_json(), "neuralforecast": install.to_json()})
    else:
        audit_report.print_report(install, report)
    if not report.ok:
        raise SystemExit(1)
