"""Finding the install of neuralforecast, and its version.

Never imports neuralforecast: a broken install is patched like any other.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Optional

from nfpatch.errors import InstallEnvironmentError, RefusedError
from nfpatch.installs import record
from nfpatch.installs.metadata import (
    DISTRIBUTION,
    checked_version,
    dist_infos_in,
    editable_checkout,
    read_metadata,
    version_of,
)

# The folder of the runtime modules of the applied patches, relative to the root of the install.
RUNTIME_FOLDER = f"{DISTRIBUTION}/_nfpatch"

Kind = Literal["regular", "editable", "checkout"]


class Install(NamedTuple):
    """One installed copy of neuralforecast.

    `root` is the folder that contains `neuralforecast/`; paths of files are POSIX paths relative to it. `site_packages`
    is the folder that contains the dist-info folder, the same as `root` except for an editable install. A plain source
    checkout has no `dist_info`. `python` is the interpreter that uses the install, and `extra_path` is put first on its
    import path.
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
        """The folder to put first on the import path, so that this copy is imported; None if that is not needed."""
        return None if self.kind == "regular" else self.root

    @property
    def package(self) -> Path:
        """The folder `neuralforecast/`."""
        return self.root / DISTRIBUTION

    @property
    def home(self) -> Path:
        """The folder in which nfpatch keeps its state of this install."""
        return self.dist_info / "nfpatch" if self.dist_info is not None else self.root / ".nfpatch"

    @property
    def record(self) -> Optional[Path]:
        """The RECORD of the distribution; None for a source checkout."""
        return self.dist_info / "RECORD" if self.dist_info is not None else None

    def file(self, name: str) -> Path:
        """The path on disk of a file named relative to `root`."""
        return self.root.joinpath(*name.split("/"))

    def to_json(self) -> dict[str, str]:
        """The `neuralforecast` object of the JSON documents."""
        return {"version": self.version, "site_packages": str(self.site_packages), "package": str(self.package)}


def find_install(python: Optional[Path] = None, site_packages: Optional[Path] = None) -> Install:
    """The neuralforecast in `site_packages`, else the one that `python` imports, else that of this interpreter.

    Raises InstallEnvironmentError if there is none, if it is ambiguous, or if its metadata is damaged.
    """
    if site_packages is not None:
        folder = Path(os.path.expanduser(site_packages)).absolute()
        if not os.path.isdir(folder):
            raise InstallEnvironmentError(
                f"--site-packages {site_packages} is not a folder. Name the folder that contains "
                f"`{DISTRIBUTION}/` and its `.dist-info`."
            )
        if not _is_readable(folder):
            raise InstallEnvironmentError(
                f"Cannot read --site-packages {site_packages}: permission denied. Re-run as a user with read access."
            )
        found = _find_on_path([folder], f"the folder {folder}")
        return found._replace(python=python or found.python, extra_path=(folder,))
    if python is not None:
        from nfpatch.installs.interpreter import import_path_of

        return _find_on_path(import_path_of(python), f"the path of {python}")._replace(python=python)
    return _find_on_path(_own_path(), f"the interpreter that runs nfpatch ({sys.executable})")


def _own_path() -> list[Path]:
    """The import path of this interpreter, without the working directory that `python -m nfpatch` puts first."""
    entries = list(sys.path)
    with suppress(FileNotFoundError):  # the working directory may have been deleted
        if not getattr(sys.flags, "safe_path", False) and entries[:1] == [os.getcwd()]:
            del entries[0]
    return [Path(entry).absolute() for entry in entries if entry]


def _find_on_path(entries: Sequence[Path], where: str) -> Install:
    """The first neuralforecast in these folders, as `import` would find it."""
    folders = [entry for entry in entries if _is_readable(entry)]
    infos = {folder: dist_infos_in(folder) for folder in folders}
    editable = [
        (info, checkout)
        for found in infos.values()
        for info in found
        if (checkout := editable_checkout(info)) is not None
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
        raise InstallEnvironmentError(
            f"The install is broken: {left_behind[0]} exists, but the package {DISTRIBUTION}/ next to it is missing. "
            f"Reinstall it: `pip install --force-reinstall --no-deps {DISTRIBUTION}==VERSION`."
        )
    raise InstallEnvironmentError(
        f"No {DISTRIBUTION} was found in {where}. Install it there, or name the install with --python PATH (the "
        "interpreter that trains) or --site-packages DIR."
    )


def _is_readable(folder: Path) -> bool:
    """Whether this is a folder that can be listed; `import` skips all other entries of its path."""
    return os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)


def _holds_package(folder: Path) -> bool:
    package = folder / DISTRIBUTION
    return os.path.isfile(package / "__init__.py") or os.path.isdir(package / "models")


def _regular_install(folder: Path, dist_info: Path) -> Install:
    if dist_info.is_symlink():
        raise RefusedError(f"{dist_info} is a symbolic link, which nfpatch does not follow. Reinstall neuralforecast.")
    version = version_of(dist_info)
    record_path = dist_info / "RECORD"
    record.parse(read_metadata(record_path), str(record_path))
    return Install(version, folder, folder, dist_info, "regular")


def _source_install(folder: Path, dist_infos: Sequence[Path]) -> Install:
    """An editable install, or a checkout that is on the import path."""
    if len(dist_infos) > 1:
        raise _ambiguous(folder, dist_infos)
    if dist_infos:
        regular = _regular_install(folder, dist_infos[0])
        return Install(regular.version, folder, dist_infos[0].parent, dist_infos[0], "editable")
    init = folder / DISTRIBUTION / "__init__.py"
    match = re.search(
        r"""^__version__\s*=\s*["']([^"']+)["']""", read_metadata(init).decode("utf-8", "replace"), re.MULTILINE
    )
    if match is None:
        raise InstallEnvironmentError(
            f"Cannot determine the version of {folder / DISTRIBUTION}: it has no .dist-info next to it, and its "
            "__init__.py has no __version__. Install neuralforecast with pip."
        )
    return Install(checked_version(match.group(1), init), folder, folder, None, "checkout")


def _same_folder(one: Path, other: Path) -> bool:
    return any(candidate.resolve() == other.resolve() for candidate in (one, one / "src"))


def module_file(name: str) -> str:
    """The path of a runtime module in an install, relative to its root."""
    return f"{RUNTIME_FOLDER}/{name}.py"


def _ambiguous(folder: Path, dist_infos: Sequence[Path]) -> InstallEnvironmentError:
    return InstallEnvironmentError(
        f"{folder} contains {len(dist_infos)} installs of {DISTRIBUTION} "
        f"({', '.join(info.name for info in dist_infos)}), so the installed version is ambiguous. Run `pip uninstall "
        f"{DISTRIBUTION}` until nothing is left, then reinstall it."
    )
