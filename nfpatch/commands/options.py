"""What the commands share: options, the install that they are about, and how errors are reported."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, NoReturn, Optional

import click
from click.core import ParameterSource

from nfpatch import console
from nfpatch.catalog import Catalog, load_catalog
from nfpatch.errors import InstallEnvironmentError, NfpatchError, UsageError
from nfpatch.installs.find import Install, find_install
from nfpatch.installs.lock import LOCK_TIMEOUT_SECONDS, refuse_windows
from nfpatch.patching.install_state import InstallState, inspect_install

if TYPE_CHECKING:
    from nfpatch.catalog import Selection
    from nfpatch.patching.operations import OperationResult
    from nfpatch.patching.selection import Choice

PROOF_TIMEOUT_HELP = (
    "Time limit of the whole proof; the default depends on the number of fits. Fits that still run then are terminated."
)

Command = Callable[..., Any]


def reporting_errors(command: Command) -> Command:
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
    """The error itself if it is nfpatch's own; for an unexpected OSError, an InstallEnvironmentError."""
    if isinstance(error, NfpatchError):
        return error
    assert isinstance(error, OSError)
    where = f"{error.filename}: " if error.filename else ""
    return InstallEnvironmentError(f"{where}{error.strerror or error}. Check the disk and your permissions there.")


def _fail(error: NfpatchError, as_json: bool) -> NoReturn:
    if as_json:
        console.print_json({"error": str(error), "exit_code": error.exit_code})
    console.print_error(str(error))
    raise SystemExit(error.exit_code)


def combine(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator that does what these do, the first of them outermost."""
    return lambda command: functools.reduce(lambda inner, decorate: decorate(inner), reversed(decorators), command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
catalog_option = click.option(
    "--patches",
    "patch_folders",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    metavar="DIR",
    help="A folder with your own patch modules. Can be given several times.",
)
SECONDS = click.FloatRange(min=0, min_open=True)
SOURCE = click.Choice(["released", "installed", "patched"])
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
names_argument = click.argument("names", nargs=-1, metavar="[GROUP|PATCH]...")
skip_option = click.option(
    "--skip",
    multiple=True,
    metavar="GROUP|PATCH",
    help="Leave out this group or patch, and all patches that require it. Can be given several times.",
)
force_option = click.option(
    "--force",
    is_flag=True,
    help="Overwrite files that were edited after `apply`; a copy of each edited file is kept next to it.",
)
lock_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=LOCK_TIMEOUT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another nfpatch process that works on the same install.",
)


def is_given(option: str) -> bool:
    """Whether this option was given on the command line of the current command."""
    source = click.get_current_context().get_parameter_source(option.lstrip("-").replace("-", "_"))
    return source is ParameterSource.COMMANDLINE


def refuse_with_dry_run(dry_run: bool, *options: str) -> None:
    """Raise UsageError if one of these options, which only affect writing, is combined with --dry-run."""
    for option in filter(is_given, options if dry_run else ()):
        raise UsageError(f"{option} has no effect with --dry-run, which writes nothing. Remove one of them.")


def timeout_option(default: float, words: str) -> Callable[[Command], Command]:
    """`--timeout`, with this default in seconds."""
    return click.option("--timeout", type=SECONDS, default=default, show_default=True, metavar="SECONDS", help=words)


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


place_options = combine(
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

answer_options = combine(json_option, reporting_errors, _with_target)
install_options = combine(place_options, catalog_option, answer_options)

report_files = combine(
    click.option("--junit-xml", type=NEW_FILE, metavar="FILE", help="Also write the report as JUnit XML."),
    click.option("--html", type=NEW_FILE, metavar="FILE", help="Also write the report as a self-contained HTML page."),
)


def check_report_files(*files: Optional[Path]) -> None:
    """Raise InstallEnvironmentError if one of these files cannot be written, before any training starts."""
    for missing in (file.parent for file in files if file is not None and not file.parent.is_dir()):
        raise InstallEnvironmentError(f"The folder {missing} does not exist. Create it first.")


@contextmanager
def usage_errors_printed(arguments: Sequence[str]) -> Iterator[None]:
    """Print click's usage errors as a JSON document if the command line has --json."""
    wants_json = "--json" in arguments  # evaluated first, because click consumes the list
    try:
        yield
    except click.UsageError as error:
        if wants_json:
            console.print_json({"error": error.format_message(), "exit_code": error.exit_code})
        raise


class JsonCommand(click.Command):
    """A command that also prints usage errors as JSON documents."""

    def make_context(
        self, info_name: Optional[str], args: list[str], parent: Optional[click.Context] = None, **extra: Any
    ) -> click.Context:
        """The context of the command line, as click makes it."""
        with usage_errors_printed(args):
            return super().make_context(info_name, args, parent, **extra)


def print_outcome(
    outcome: OperationResult,
    selection: Selection,
    choice: Choice,
    verb: str,
    dry_run: bool,
    as_json: bool,
    proof: Optional[dict[str, object]] = None,
) -> None:
    """Print the answer of `apply` or `revert`: a document, the diff of a dry run, or the states and changes."""
    if as_json:
        console.print_json(console.outcome_to_json(outcome, selection, choice, dry_run, proof))
    elif dry_run:
        console.print_diff(outcome.changes)
        console.print_choice(outcome, selection, choice, err=True)
    else:
        console.print_outcome(outcome, selection, choice, verb)
