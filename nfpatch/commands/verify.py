"""`nfpatch verify`: prove the patches by real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import click

from nfpatch import console
from nfpatch.commands.options import (
    PROOF_TIMEOUT_HELP,
    SECONDS,
    SOURCE,
    JsonCommand,
    Target,
    check_report_files,
    combine,
    install_options,
    names_argument,
    report_files,
    skip_option,
)
from nfpatch.errors import UsageError
from nfpatch.patching.install_state import inspect_install

_nodes_options = combine(
    click.option(
        "--nnodes",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Number of machines (nodes); run the same command on each.",
    ),
    click.option(
        "--rdzv-endpoint", metavar="HOST:PORT", help="Rendezvous endpoint, as in torchrun: a node and a free port."
    ),
    click.option(
        "--rdzv-backend", metavar="NAME", help="Rendezvous backend, as in torchrun: c10d (default), static, ..."
    ),
    click.option("--rdzv-id", metavar="ID", help="Rendezvous ID, as in torchrun."),
    click.option(
        "--node-rank",
        type=click.IntRange(min=0),
        metavar="N",
        help="Rank of this node, from 0; with --rdzv-backend static.",
    ),
    click.option("--local-addr", metavar="ADDRESS", help="Address at which the other nodes reach this one."),
)


@click.command("verify", cls=JsonCommand)
@names_argument
@skip_option
@click.option("--preview", is_flag=True, help="The same as --source patched.")
@click.option(
    "--source",
    type=SOURCE,
    help="The source to compare with the released one: installed (default), or patched, without writing it. With "
    "released, only the released source is run, and its bugs are shown.",
)
@click.option(
    "--allow-modified", is_flag=True, help="With --preview: also patch files that differ from the release, as in apply."
)
@click.option(
    "--thorough", is_flag=True, help="Train all configurations that the patches name, not only the essential ones."
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="N",
    help="Number of training processes on each node.",
)
@click.option(
    "--accelerator",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="With gpu the backend is nccl, or gloo if processes share a GPU.",
)
@click.option(
    "--launcher",
    "launchers",
    type=click.Choice(["torchrun", "script", "spawn", "fork", "spark"]),
    multiple=True,
    help="What starts the processes: torchrun (default), Lightning as for `python script.py`, ddp_spawn, ddp_notebook, "
    "or Spark in local mode (CPU only). Can be given several times.",
)
@_nodes_options
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help=PROOF_TIMEOUT_HELP)
@click.option("--verbose", is_flag=True, help="Show all fits, not only those that failed.")
@report_files
@install_options
def command(
    names: tuple[str, ...],
    skip: tuple[str, ...],
    preview: bool,
    source: Any,
    allow_modified: bool,
    thorough: bool,
    devices: int,
    accelerator: str,
    launchers: tuple[Any, ...],
    timeout: Optional[float],
    verbose: bool,
    junit_xml: Optional[Path],
    html: Optional[Path],
    target: Target,
    **nodes_options: Any,
) -> None:
    """Prove by real multi-process runs that the released source fails and the patched source works.

    This covers the patches that are applied (or with --preview would be), of the named groups and patches. For each
    case, two processes train a model for a few steps with the interpreter that --python names (default: this one), on
    the CPU with the gloo backend. NHITS, which needs no patch, is the control.
    """
    from nfpatch.engine.launch import Nodes
    from nfpatch.engine.report import write_files
    from nfpatch.proof import report as proof_report
    from nfpatch.proof.prove import ProofRequest, agenda_for, run_agenda, timeout_for
    from nfpatch.proof.runner import RunOptions

    nodes = Nodes(**nodes_options)
    nodes.check(devices)
    if nodes.nnodes > 1 and set(launchers) - {"torchrun"}:
        raise UsageError("Several nodes are only supported with torchrun: remove --launcher or --nnodes.")
    if accelerator == "gpu" and "spark" in launchers:
        raise UsageError("Spark is only supported on the CPU: remove --accelerator gpu or --launcher spark.")
    if preview and source not in (None, "patched"):
        raise UsageError(f"--preview is the same as --source patched: remove it, or --source {source}.")
    source = "patched" if preview else source or "installed"
    if allow_modified and source == "installed":
        raise UsageError("--allow-modified has no effect on the installed source: add --preview, or remove it.")
    check_report_files(junit_xml, html)
    catalog = target.catalog()
    selection = catalog.selection(names, skip)
    install = target.install()
    request = ProofRequest(selection, source, allow_modified, thorough=thorough, launchers=launchers or ("torchrun",))
    agenda = agenda_for(inspect_install(install, catalog), request)
    with proof_report.progress(agenda, verbose) as on_event:
        options = RunOptions(devices, accelerator, timeout or timeout_for(agenda), nodes)
        report = run_agenda(agenda, install, options, on_event)
    write_files(proof_report.document_of(install, report, agenda), junit_xml, html)
    if target.as_json:
        console.print_json({**report.to_json(), "neuralforecast": install.to_json()})
    else:
        proof_report.print_report(install, report, verbose)
    if not report.ok:
        raise SystemExit(1)
