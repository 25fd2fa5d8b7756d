"""`nfpatch apply`: patch the install."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import click

from nfpatch import console
from nfpatch.catalog import Catalog
from nfpatch.commands.options import (
    PROOF_TIMEOUT_HELP,
    SECONDS,
    JsonCommand,
    Target,
    force_option,
    install_options,
    lock_option,
    names_argument,
    print_outcome,
    refuse_with_dry_run,
    skip_option,
)
from nfpatch.errors import RefusedError, UsageError
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import inspect_install

if TYPE_CHECKING:
    from nfpatch.proof.prove import ProofRequest


@click.command("apply", cls=JsonCommand)
@names_argument
@skip_option
@click.option("--dry-run", is_flag=True, help="Print the unified diff and write nothing.")
@click.option(
    "--allow-modified", is_flag=True, help="Patch files that differ from the release if the codemod matches exactly."
)
@click.option(
    "--keep-going",
    is_flag=True,
    help="Apply all patches that fit, each as a whole, and list the others; exit with code 1 if any is left out.",
)
@click.option("--allow-editable", is_flag=True, help="Patch an editable install or a source checkout.")
@click.option(
    "--prove",
    is_flag=True,
    help="Run `verify --preview` first, and write only if it passes.",
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help=f"With --prove: {PROOF_TIMEOUT_HELP}",
)
@force_option
@lock_option
@install_options
def command(
    names: tuple[str, ...],
    skip: tuple[str, ...],
    dry_run: bool,
    allow_modified: bool,
    keep_going: bool,
    allow_editable: bool,
    prove: bool,
    timeout: Optional[float],
    force: bool,
    lock_timeout: float,
    target: Target,
) -> None:
    """Patch the install: all needed patches, or the named groups and patches.

    Without names: the default groups, and all outdated patches. Opt-in patches are applied only by their own id.
    """
    from nfpatch.patching import operations
    from nfpatch.patching.selection import choice_for_apply

    if timeout is not None and not prove:
        raise UsageError("--timeout has no effect without --prove: add --prove, or remove --timeout.")
    refuse_with_dry_run(dry_run, "--allow-editable", "--lock-timeout")
    catalog = target.catalog()
    selection = catalog.selection(names, skip)
    install = target.install()
    proof = None
    if prove:
        from nfpatch.proof.prove import ProofRequest

        request = ProofRequest(selection, "patched", allow_modified, force, keep_going)
        may_write = allow_editable or dry_run
        proof = _prove_preview(request, install, catalog, may_write, timeout, target.as_json)
    state = inspect_install(install, catalog)
    choice = choice_for_apply(state, selection)
    try:
        outcome = operations.apply(
            install,
            catalog,
            choice.patches,
            allow_modified,
            allow_editable,
            force,
            dry_run,
            lock_timeout,
            seen=state,
            keep_going=keep_going,
        )
    except operations.PartlyRefused as error:
        flags = {
            "--allow-modified": error.needs_consent,
            "--keep-going": bool(error.plan.left_out),
            "--allow-editable": allow_editable,
            "--force": force,
        }
        command = _command_for(names, skip, [flag for flag, is_set in flags.items() if is_set], target)
        raise RefusedError(f"{error} {console.describe_partial_plan(error.plan)}: `{command}`.") from error
    print_outcome(outcome, selection, choice, "apply", dry_run, target.as_json, proof)
    if outcome.left_out:
        raise SystemExit(1)


def _command_for(names: Sequence[str], skip: Sequence[str], flags: Sequence[str], target: Target) -> str:
    """The command line of `apply` with these flags, for the user to copy."""
    options = {
        "--skip": skip,
        "--patches": target.patch_folders,
        "--python": [target.python] if target.python else [],
        "--site-packages": [target.site_packages] if target.site_packages else [],
    }
    valued = [word for option, values in options.items() for value in values for word in (option, str(value))]

    return shlex.join(["nfpatch", "apply", *names, *flags, *valued])


def _prove_preview(
    request: ProofRequest, install: Install, catalog: Catalog, may_write: bool, timeout: Optional[float], as_json: bool
) -> Optional[dict[str, object]]:
    """Prove what `apply` is about to write; exit with code 1 if that fails. None if there is nothing to write."""
    from nfpatch.patching.operations import refuse_checkout
    from nfpatch.proof import report as proof_report
    from nfpatch.proof.prove import agenda_for, run_agenda, timeout_for
    from nfpatch.proof.runner import RunOptions

    state = inspect_install(install, catalog)
    agenda = agenda_for(state, request)
    if not agenda.trees["patched"]:
        return None
    if not may_write:
        refuse_checkout(install)  # now, because `apply` would refuse it after the proof
    with proof_report.progress(agenda) as on_event:
        report = run_agenda(agenda, install, RunOptions(timeout=timeout or timeout_for(agenda)), on_event)
    if not as_json:
        proof_report.print_report(install, report)
    if inspect_install(install, catalog).contents != state.contents:
        raise RefusedError(
            f"{install.package} was changed while its patched source was being proved. Re-run the command."
        )
    if not report.ok:
        if as_json:
            document = console.state_to_json(state, catalog.selection(), changed=())
            console.print_json({**document, "proof": report.to_json()})
        console.print_error("The proof failed; nothing was written.")
        raise SystemExit(1)
    return report.to_json()
