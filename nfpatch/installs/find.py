"""Where neuralforecast is installed, and which release it is.

Never imports it: a broken install is healed like any other.

The dist-info folder is read directly rather than through `importlib.metadata`, whose import alone takes as long as all
that `status` does, and which would not tell two dist-info folders from one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Optional

from nfpatch.errors import EnvironmentProblem, NfpatchError, Refused
from nfpatch.installs import record

DISTRIBUTION = "neuralforecast"
# Where the runtime modules of the applied patches stand, relative to the root of the install.
RUNTIME_FOLDER = f"{DISTRIBUTION}/_nfpatch"
INTERPRETER_TIMEOUT_SECONDS = 60
LARGEST_FILE_BYTES = 32 * 1024 * 1024

# Runs in the target interpreter, so it must stay valid Python 3.7. `-c` puts "" (the working folder) first on the
# path; a script that trains does not have that entry.
_PATH_PROBE = "import json, sys; sys.stdout.write('\\n' + json.dumps([p for p in sys.path if p]))"

Kind = Literal["regular", "editable", "checkout"]


class Install(NamedTuple):
    """One installed copy of neuralforecast.

    `root` is the folder that holds `neuralforecast/`; paths of files are POSIX paths relative to it. `site_packages` is
    the folder that holds the dist-info folder, the same as `root` but for an editable install. A plain source checkout
    has no `dist_info`. `python` is the interpreter that it is meant for, and `extra_path` what goes first on the import
    path there.
    """

    version: str
    root: Path
    site_packages: Path
    dist_info: Optional[Path]
    kind: Kind
    python: Path = Path(sys.executable)
    extra_path: tuple[Path, ...] = ()

    @property
    def tree(self) -> Optional[Path]:
        """What must go first on the import path on top of that, so that this copy is imported; None for nothing."""
        return None if self.kind == "regular" else self.root

    @property
    def package(self) -> Path:
        """The folder `neuralforecast/`."""
        return self.root / DISTRIBUTION

    @property
    def home(self) -> Path:
        """The folder in which nfpatch keeps all that it knows of this install."""
        return self.dist_info / "nfpatch" if self.dist_info is not None else self.root / ".nfpatch"

    @property
    def record(self) -> Optional[Path]:
        """The RECORD of the distribution; None for a source checkout, which has none."""
        return self.dist_info / "RECORD" if self.dist_info is not None else None

    def file(self, name: str) -> Path:
        """The path on disk of a file named relative to `root`."""
        return self.root.joinpath(*name.split("/"))

    def to_json(self) -> dict[str, str]:
        """The `neuralforecast` object of the JSON documents."""
        return {"version": self.version, "site_packages": str(self.site_packages), "package": str(self.package)}


def find_install(python: Optional[Path] = None, site_packages: Optional[Path] = None) -> Install:
    """The neuralforecast that `site_packages` holds, else the one that `python` imports, else this interpreter's.

    Raises EnvironmentProblem when there is none, when it is ambiguous, or when its metadata cannot be trusted.
    """
    if site_packages is not None:
        folder = Path(os.path.expanduser(site_packages)).absolute()
        if not os.path.isdir(folder):
            raise EnvironmentProblem(
                f"--site-packages {site_packages} is not a folder. Name the folder that holds "
                f"`{DISTRIBUTION}/` and its `.dist-info`."
            )
        if not _is_readable(folder):
            raise EnvironmentProblem(f"--site-packages {site_packages} cannot be read. Run as a user who may.")
        found = _find_on_path([folder], f"the folder {folder}")
        return found._replace(python=python or found.python, extra_path=(folder,))
    if python is not None:
        return _find_on_path(_path_of(python), f"the path of {python}")._replace(python=python)
    return _find_on_path(_own_path(), f"the interpreter that runs nfpatch ({sys.executable})")


def _own_path() -> list[Path]:
    """The import path of this interpreter, less the working folder that `python -m nfpatch` puts in front."""
    entries = list(sys.path)
    with suppress(FileNotFoundError):  # the working folder may be gone
        if not getattr(sys.flags, "safe_path", False) and entries[:1] == [os.getcwd()]:
            del entries[0]
    return [Path(entry).absolute() for entry in entries if entry]


def interpreter_path(python: Path) -> Path:
    """The interpreter as it can be run: the file of this name, else the name for the system to look up on `PATH`.

    Links are not followed: the link is what makes it a virtual environment's.
    """
    expanded = Path(os.path.expanduser(python))  # which, unlike Path.expanduser, puts up with an unknown user
    return expanded.absolute() if os.path.isfile(expanded) else expanded


def _path_of(python: Path) -> list[Path]:
    """The import path of another interpreter, Python 3.7 or newer."""
    import subprocess

    advice = "Give the path of a Python interpreter, such as the `bin/python` of the environment that trains."
    try:
        answer = subprocess.run(
            [str(interpreter_path(python)), "-B", "-c", _PATH_PROBE],  # -B: to look is not to write
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INTERPRETER_TIMEOUT_SECONDS,
            check=True,
        )
        entries = json.loads(answer.stdout.splitlines()[-1])
        return [Path(entry).absolute() for entry in entries]
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(
            f"The interpreter {python} gave no answer within {INTERPRETER_TIMEOUT_SECONDS} seconds. {advice}"
        ) from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise EnvironmentProblem(
            f"The interpreter {python} ended with exit code {error.returncode}"
            f"{': ' + words[-1] if words else ''}. {advice}"
        ) from error
    except OSError as error:
        raise EnvironmentProblem(f"The interpreter {python} cannot be run: {error.strerror}. {advice}") from error
    except (ValueError, TypeError, IndexError) as error:
        raise EnvironmentProblem(f"{python} does not answer as a Python interpreter does. {advice}") from error


def _find_on_path(entries: Sequence[Path], where: str) -> Install:
    """The first neuralforecast on these folders, as `import` would find it."""
    folders = [entry for entry in entries if _is_readable(entry)]
    infos = {folder: _dist_infos(folder) for folder in folders}
    editable = [
        (info, checkout)
        for found in infos.values()
        for info in found
        if (checkout := _editable_checkout(info)) is not None
    ]
    for folder in folders:
        if _holds_package(folder):
            own = [info for info in infos[folder] if all(info != other for other, _ in editable)]
            if len(own) > 1:
                raise _ambiguous(folder, own)
            if own:
                return _regular_install(folder, own[0])
            linked = [info for info, checkout in editable if _same_folder(checkout, folder)]
            return _source_install(folder, linked)
    for info, checkout in editable:
        for folder in (checkout, checkout / "src"):
            if _holds_package(folder):
                return _source_install(folder, [info])
    left_behind = [info for found in infos.values() for info in found]
    if left_behind:
        raise EnvironmentProblem(
            f"{left_behind[0]} is there, but the package {DISTRIBUTION}/ beside it is gone: the install is broken. "
            f"Reinstall it: `pip install --force-reinstall --no-deps {DISTRIBUTION}==VERSION`."
        )
    raise EnvironmentProblem(
        f"No {DISTRIBUTION} was found in {where}. Install it there, or say which one is meant with "
        "--python PATH (the interpreter that trains) or --site-packages DIR."
    )


def _is_readable(folder: Path) -> bool:
    """Whether this is a folder that can be listed; `import` passes over any other entry of its path."""
    return os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)


def _holds_package(folder: Path) -> bool:
    package = folder / DISTRIBUTION
    return os.path.isfile(package / "__init__.py") or os.path.isdir(package / "models")


def _dist_infos(folder: Path) -> list[Path]:
    pattern = re.compile(rf"{DISTRIBUTION}-.+\.dist-info", re.IGNORECASE)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if pattern.fullmatch(entry.name))
    except OSError as error:
        raise EnvironmentProblem(f"{folder} cannot be read: {error.strerror}. Run as a user who may.") from error
    return [folder / name for name in names if (folder / name).is_dir()]


def _editable_checkout(dist_info: Path) -> Optional[Path]:
    """The checkout that an editable install points to (PEP 610, PEP 660); None for any other install."""
    from urllib.parse import unquote, urlsplit

    try:
        direct_url = json.loads(read_file(dist_info / "direct_url.json"))
        if direct_url["dir_info"]["editable"] is True:
            return Path(unquote(urlsplit(direct_url["url"]).path))
    except (NfpatchError, OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _regular_install(folder: Path, dist_info: Path) -> Install:
    if dist_info.is_symlink():
        raise Refused(
            f"{dist_info} is a symbolic link. nfpatch writes nothing where it leads; reinstall neuralforecast."
        )
    version = _version_of(dist_info)
    record_path = dist_info / "RECORD"
    record.parse(_read_metadata(record_path), str(record_path))
    return Install(version, folder, folder, dist_info, "regular")


def _source_install(folder: Path, dist_infos: Sequence[Path]) -> Install:
    """An editable install, or a checkout that is merely on the path."""
    if len(dist_infos) > 1:
        raise _ambiguous(folder, dist_infos)
    if dist_infos:
        regular = _regular_install(folder, dist_infos[0])
        return Install(regular.version, folder, dist_infos[0].parent, dist_infos[0], "editable")
    init = folder / DISTRIBUTION / "__init__.py"
    match = re.search(
        r"""^__version__\s*=\s*["']([^"']+)["']""", _read_metadata(init).decode("utf-8", "replace"), re.MULTILINE
    )
    if match is None:
        raise EnvironmentProblem(
            f"{folder / DISTRIBUTION} has no .dist-info beside it, and its __init__.py states no __version__, so "
            "nfpatch cannot tell which release it is. Install neuralforecast with pip."
        )
    return Install(_checked_version(match.group(1), init), folder, folder, None, "checkout")


def _version_of(dist_info: Path) -> str:
    metadata = dist_info / "METADATA"
    try:
        headers = _read_metadata(metadata).decode("utf-8").replace("\r\n", "\n").split("\n\n", 1)[0]
    except UnicodeDecodeError as error:
        raise _untrusted_metadata(metadata, "is not UTF-8") from error
    fields = dict(re.findall(r"^(Name|Version):[ \t]*(.*?)[ \t]*$", headers, re.MULTILINE))
    if re.sub(r"[-_.]+", "-", fields.get("Name", "")).lower() != DISTRIBUTION:
        raise _untrusted_metadata(metadata, f"does not name {DISTRIBUTION}")
    if not fields.get("Version"):
        raise _untrusted_metadata(metadata, "states no version")
    version = _checked_version(fields["Version"], metadata)
    folder_version = dist_info.name[len(DISTRIBUTION) + 1 : -len(".dist-info")]
    if folder_version != version and not _same_version(folder_version, version):
        raise _untrusted_metadata(metadata, f"states version {version}, its folder's name {folder_version}")
    return version


def _checked_version(version: str, origin: Path) -> str:
    if re.fullmatch(r"\d+(\.\d+)*", version):  # the plain case needs no parser
        return version
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version))
    except InvalidVersion as error:
        raise _untrusted_metadata(origin, f"states {version!r}, which is no PEP 440 version") from error


def _same_version(one: str, other: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one.replace("_", "-")) == Version(other)
    except InvalidVersion:
        return False


def _same_folder(one: Path, other: Path) -> bool:
    return any(candidate.resolve() == other.resolve() for candidate in (one, one / "src"))


def module_file(name: str) -> str:
    """The path of a runtime module in an install, relative to its root."""
    return f"{RUNTIME_FOLDER}/{name}.py"


def read_file(path: Path) -> bytes:
    """The content of a regular file. Never waits, as it would on a pipe, and never takes in more than it should.

    Raises FileNotFoundError, Refused for what is no regular file or too large to be one of neuralforecast's, and
    EnvironmentProblem where it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _not_a_regular_file(path)
            if status.st_size > LARGEST_FILE_BYTES:
                raise Refused(
                    f"{path} has {status.st_size} bytes, far more than any file of neuralforecast. nfpatch does not "
                    "read it; reinstall neuralforecast."
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise _not_a_regular_file(path) from error
        advice = "Reinstall neuralforecast" if error.errno == errno.ELOOP else "Run as a user who may"
        raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}. {advice}.") from error


def _not_a_regular_file(path: Path) -> Refused:
    return Refused(f"{path} is not a regular file. nfpatch does not touch it; reinstall neuralforecast.")


def _read_metadata(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise EnvironmentProblem(
            f"{path} is missing: the install is incomplete. Reinstall it: "
            f"`pip install --force-reinstall --no-deps {DISTRIBUTION}==VERSION`."
        ) from error


def _ambiguous(folder: Path, dist_infos: Sequence[Path]) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{folder} holds {len(dist_infos)} installs of {DISTRIBUTION} at once "
        f"({', '.join(info.name for info in dist_infos)}), so its release is anybody's guess. Uninstall it until pip "
        "finds none, then install the release you want."
    )


def _untrusted_metadata(path: Path, what: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{path} {what}. Reinstall neuralforecast: `pip install --force-reinstall --no-deps {DISTRIBUTION}==VERSION`."
    )
