"""The command line: parses options, calls the packages, prints results. It contains no logic."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, NoReturn, Optional

import click
from click.core import ParameterSource

from nfpatch import __version__, console
from nfpatch.catalog import Catalog, load_catalog
from nfpatch.errors import EnvironmentProblem, NfpatchError, Refused, UsageError
from nfpatch.installs.find import Install, find_install
from nfpatch.installs.lock import LOCK_TIMEOUT_SECONDS, refuse_windows
from nfpatch.patching.install_state import InstallState, inspect_install

if TYPE_CHECKING:
    from nfpatch.catalog import Selection
    from nfpatch.patching.operations import OperationResult
    from nfpatch.patching.selection import Choice
    from nfpatch.proof.prove import ProofRequest

PROOF_TIMEOUT_IN_WORDS = (
    "Time limit of the whole proof; the default depends on the number of fits. Fits that still run then are terminated."
)
AUDIT_TIMEOUT_SECONDS = 900.0
REHEARSAL_TIMEOUT_SECONDS = 600.0
REHEARSED_STEPS = 4

Command = Callable[..., Any]


def _reporting_errors(command: Command) -> Command:
    """Print nfpatch's errors as one paragraph and exit with their code; with --traceback, print the traceback, too."""

    @functools.wraps(command)
    def wrapped(*args: Any, traceback: bool, **options: Any) -> Any:
        try:
            refuse_windows()
            return command(*args, **options)
        except BrokenPipeError:
            raise  # click exits silently
        except (NfpatchError, OSError) as error:
            if traceback:
                console.print_traceback()
            _fail(_as_reported(error), as_json=bool(options.get("as_json")))

    return click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")(wrapped)


def _as_reported(error: Exception) -> NfpatchError:
    """The error itself if it is nfpatch's own; for an unexpected OSError, an EnvironmentProblem."""
    if isinstance(error, NfpatchError):
        return error
    assert isinstance(error, OSError)
    where = f"{error.filename}: " if error.filename else ""
    return EnvironmentProblem(f"{where}{error.strerror or error}. Check the disk and your permissions there.")


def _fail(error: NfpatchError, as_json: bool) -> NoReturn:
    if as_json:
        console.print_json({"error": str(error), "exit_code": error.exit_code})
    console.print_error(str(error))
    raise SystemExit(error.exit_code)


def _options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    return lambda command: functools.reduce(lambda inner, decorate: decorate(inner), reversed(decorators), command)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
_catalog_option = click.option(
    "--patches",
    "patch_folders",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    metavar="DIR",
    help="A folder with your own patch modules. Can be given several times.",
)
_seconds = click.FloatRange(min=0, min_open=True)
_source = click.Choice(["released", "installed", "patched"])
_new_file = click.Path(dir_okay=False, path_type=Path)
_names_argument = click.argument("names", nargs=-1, metavar="[GROUP|PATCH]...")
_skip_option = click.option(
    "--skip",
    multiple=True,
    metavar="GROUP|PATCH",
    help="Leave out this group or patch, and all patches that require it. Can be given several times.",
)
_force_option = click.option(
    "--force",
    is_flag=True,
    help="Overwrite files that were edited after `apply`; a copy of each edited file is kept next to it.",
)
_lock_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=LOCK_TIMEOUT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another nfpatch process that works on the same install.",
)


def _is_given(option: str) -> bool:
    """Whether this option was given on the command line of the current command."""
    source = click.get_current_context().get_parameter_source(option.lstrip("-").replace("-", "_"))
    return source is ParameterSource.COMMANDLINE


def _refuse_with_dry_run(dry_run: bool, *options: str) -> None:
    """Raise UsageError if one of these options, which only affect writing, is combined with --dry-run."""
    for option in filter(_is_given, options if dry_run else ()):
        raise UsageError(f"{option} has no effect with --dry-run, which writes nothing. Remove one of them.")


def _timeout_option(default: float, words: str) -> Callable[[Command], Command]:
    return click.option("--timeout", type=_seconds, default=default, show_default=True, metavar="SECONDS", help=words)


class Target(NamedTuple):
    """The options of nearly every command: which install and which catalog it works on, and its output format."""

    python: Optional[Path]
    site_packages: Optional[Path]
    as_json: bool
    patch_folders: tuple[Path, ...] = ()

    @property
    def options(self) -> list[str]:
        """The options that name the install, as on a command line."""
        named = (("--python", self.python), ("--site-packages", self.site_packages))
        return [word for option, path in named if path is not None for word in (option, str(path))]

    def install(self) -> Install:
        """The install that the options name. Raises what `find_install` raises."""
        return find_install(self.python, self.site_packages)

    def catalog(self) -> Catalog:
        """The shipped patches and the user's own. Raises what `load_catalog` raises."""
        return load_catalog(self.patch_folders)

    def install_state(self) -> InstallState:
        """The state of this install."""
        return inspect_install(self.install(), self.catalog())


def _with_target(command: Command) -> Command:
    """Pass the options of `Target` to the command as one argument."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        target = Target(**{name: options.pop(name) for name in Target._fields if name in options})
        return command(*args, target=target, **options)

    return wrapped


_place_options = _options(
    click.option(
        "--python",
        type=click.Path(readable=False, path_type=Path),
        metavar="PATH",
        help="The Python interpreter (3.7 or newer) that imports neuralforecast; it does not need nfpatch.",
    ),
    click.option(
        "--site-packages",
        type=click.Path(readable=False, path_type=Path),
        metavar="DIR",
        help="The folder that contains neuralforecast/ and its .dist-info.",
    ),
)
_answer_options = _options(_json_option, _reporting_errors, _with_target)
_install_options = _options(_place_options, _catalog_option, _answer_options)


SECTIONS = {
    "Inspect": ("list", "which", "status"),
    "Patch": ("apply", "revert"),
    "Prove": ("verify", "rehearse", "audit"),
    "Saved models": ("migrate",),
}


@contextmanager
def _usage_errors_printed(arguments: Sequence[str]) -> Iterator[None]:
    """Print click's usage errors as a JSON document if the command line has --json."""
    wants_json = "--json" in arguments  # evaluated first, because click consumes the list
    try:
        yield
    except click.UsageError as error:
        if wants_json:
            console.print_json({"error": error.format_message(), "exit_code": error.exit_code})
        raise


class _Command(click.Command):
    """A command that also prints usage errors as JSON documents."""

    def make_context(
        self, info_name: Optional[str], args: list[str], parent: Optional[click.Context] = None, **extra: Any
    ) -> click.Context:
        with _usage_errors_printed(args):
            return super().make_context(info_name, args, parent, **extra)


class _Sections(click.Group):
    """The commands, listed in sections."""

    command_class = _Command

    def make_context(
        self, info_name: Optional[str], args: list[str], parent: Optional[click.Context] = None, **extra: Any
    ) -> click.Context:
        with _usage_errors_printed(args):
            return super().make_context(info_name, args, parent, **extra)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        with _usage_errors_printed(args):
            return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        others = tuple(name for name in self.commands if name not in sum(SECTIONS.values(), ()))
        for heading, names in {**SECTIONS, "Others": others}.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit=200)) for name in names]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


@click.group(cls=_Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nfpatch")
@click.pass_context
def main(context: click.Context) -> None:
    """Patch an installed neuralforecast that cannot train on several GPUs.

    Exit codes: 0 success, 1 a check failed, 2 usage error, 3 refused (nothing changed), 4 environment error.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False


@main.command("list")
@click.option("--group", metavar="GROUP", help="Only the patches of this group.")
@click.option("--release", metavar="VERSION", help="Only the patches that this release of neuralforecast needs.")
@_options(_catalog_option, _json_option, _reporting_errors)
def list_(group: Optional[str], release: Optional[str], patch_folders: tuple[Path, ...], as_json: bool) -> None:
    """List the patches by group, with the releases that they are for."""
    catalog = load_catalog(patch_folders)
    patches = catalog.patches if group is None else catalog.group(group)
    if release is not None:
        patches = tuple(patch for patch in patches if catalog.is_for(patch, release))
    if as_json:
        console.print_json(console.catalog_to_json(catalog, patches))
    else:
        console.print_catalog(catalog, patches)


@main.command()
@click.argument("log", required=False, metavar="[LOG|-]")
@_install_options
def which(log: Optional[str], target: Target) -> None:
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
    """The text that the argument of `which` stands for: a file, standard input, or the argument itself."""
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
            raise EnvironmentProblem(
                f"Cannot read {log}: permission denied. Re-run as a user with read access."
            ) from error
        is_name = "." in log and path.suffix not in (".log", ".txt", ".out", ".err")
        if is_name or log.endswith("Error") or any(character.isspace() for character in log):
            return log
        raise UsageError(f"There is no file {log}. Name a log file, or quote the error message.") from error


@main.command()
@_names_argument
@_skip_option
@click.option("--check", is_flag=True, help="Exit with code 1 unless all needed patches are applied.")
@click.option("--all", "show_all", is_flag=True, help="Also list the patches that are not needed.")
@_install_options
def status(names: tuple[str, ...], skip: tuple[str, ...], check: bool, show_all: bool, target: Target) -> None:
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


@main.command()
@_names_argument
@_skip_option
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
    type=_seconds,
    metavar="SECONDS",
    help=f"With --prove: {PROOF_TIMEOUT_IN_WORDS}",
)
@_force_option
@_lock_option
@_install_options
def apply(
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
    _refuse_with_dry_run(dry_run, "--allow-editable", "--lock-timeout")
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
        raise Refused(f"{error} {console.describe_partial_plan(error.plan)}: `{command}`.") from error
    _print_outcome(outcome, selection, choice, "apply", dry_run, target.as_json, proof)
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
    import shlex

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
        raise Refused(f"{install.package} was changed while its patched source was being proved. Re-run the command.")
    if not report.ok:
        if as_json:
            document = console.state_to_json(state, catalog.selection(), changed=())
            console.print_json({**document, "proof": report.to_json()})
        console.print_error("The proof failed; nothing was written.")
        raise SystemExit(1)
    return report.to_json()


@main.command()
@_names_argument
@click.option("--dry-run", is_flag=True, help="Print the unified diff and write nothing.")
@_force_option
@_lock_option
@_install_options
def revert(names: tuple[str, ...], dry_run: bool, force: bool, lock_timeout: float, target: Target) -> None:
    """Restore the originals, byte for byte: revert all applied patches, or the named groups and patches."""
    _refuse_with_dry_run(dry_run, "--lock-timeout")
    from nfpatch.patching import operations
    from nfpatch.patching.selection import Choice, choice_for_revert

    catalog = target.catalog()
    selection = catalog.selection(names)
    install = target.install()
    seen = None if selection.is_default else inspect_install(install, catalog)
    choice = Choice(()) if seen is None else choice_for_revert(seen, selection)
    outcome = operations.revert(install, catalog, choice.patches, force, dry_run, lock_timeout, seen)
    _print_outcome(outcome, selection, choice, "revert", dry_run, target.as_json)


_nodes_options = _options(
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


_report_files = _options(
    click.option("--junit-xml", type=_new_file, metavar="FILE", help="Also write the report as JUnit XML."),
    click.option("--html", type=_new_file, metavar="FILE", help="Also write the report as a self-contained HTML page."),
)


def _check_report_files(*files: Optional[Path]) -> None:
    """Raise EnvironmentProblem if one of these files cannot be written, before any training starts."""
    for missing in (file.parent for file in files if file is not None and not file.parent.is_dir()):
        raise EnvironmentProblem(f"The folder {missing} does not exist. Create it first.")


@main.command()
@_names_argument
@_skip_option
@click.option("--preview", is_flag=True, help="The same as --source patched.")
@click.option(
    "--source",
    type=_source,
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
@click.option("--timeout", type=_seconds, metavar="SECONDS", help=PROOF_TIMEOUT_IN_WORDS)
@click.option("--verbose", is_flag=True, help="Show all fits, not only those that failed.")
@_report_files
@_install_options
def verify(
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
    _check_report_files(junit_xml, html)
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


@main.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--ddp", is_flag=True, help="Train each configuration by DDP in two processes.")
@_timeout_option(AUDIT_TIMEOUT_SECONDS, "Time limit of the whole audit. Trainings that still run then are terminated.")
@_options(_place_options, _answer_options)
def audit(
    models: tuple[str, ...],
    ddp: bool,
    timeout: float,
    target: Target,
) -> None:
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


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
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
    type=_source,
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
@_timeout_option(REHEARSAL_TIMEOUT_SECONDS, "Time limit of the whole script. Processes still running are terminated.")
@_report_files
@_install_options
def rehearse(
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
    junit_xml: Optional[Path],
    html: Optional[Path],
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

    if as_is and _is_given("--max-steps"):
        raise UsageError("--max-steps has no effect with --as-is: remove one of them.")
    _check_report_files(junit_xml, html)
    state = target.install_state()
    what = run.Script(script, arguments, is_module)
    with rehearsal_report.progress(what, devices) as on_event:
        report = run.rehearse(
            state,
            what,
            source,
            devices,
            launcher,
            None if as_is else max_steps,
            timeout,
            on_event,
            (lambda printed: click.echo(printed, nl=False, err=True)) if show_output else None,
        )
    write_files(rehearsal_report.document_of(state.install, what, report), junit_xml, html)
    if target.as_json:
        console.print_json({**report.to_json(), "neuralforecast": state.install.to_json()})
    else:
        rehearsal_report.print_report(state.install, what, report)
    if not report.ok:
        raise SystemExit(1)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--dry-run", is_flag=True, help="Print what would be dropped and added, and write nothing.")
@click.option("--no-backup", is_flag=True, help="Do not keep the old files as FILE.nfpatch-backup.")
@click.option("--model", metavar="CLASS", help="Model class (e.g. TFT) for files that do not record it.")
@click.option("--trust", is_flag=True, help="Allow the files to execute code when loaded, as pickles can.")
@_install_options
def migrate(
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
    _refuse_with_dry_run(dry_run, "--no-backup")
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


def _print_outcome(
    outcome: OperationResult,
    selection: Selection,
    choice: Choice,
    verb: str,
    dry_run: bool,
    as_json: bool,
    proof: Optional[dict[str, object]] = None,
) -> None:
    if as_json:
        console.print_json(console.outcome_to_json(outcome, selection, choice, dry_run, proof))
    elif dry_run:
        console.print_diff(outcome.changes)
        console.print_choice(outcome, selection, choice, err=True)
    else:
        console.print_outcome(outcome, selection, choice, verb)
