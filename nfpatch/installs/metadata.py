"""The metadata in the dist-info folder of neuralforecast, read without `importlib.metadata`.

The import of that module takes longer than a whole `status`, and it does not distinguish two dist-info folders from
one. So the usual header of METADATA is matched by a regex, and any other one is parsed by `email` and `packaging`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Optional

from nfpatch.errors import InstallEnvironmentError, NfpatchError
from nfpatch.installs.disk import read_file

DISTRIBUTION = "neuralforecast"
_FOLDER = re.compile(rf"{DISTRIBUTION}-(.+)\.dist-info", re.IGNORECASE)
# The first lines of METADATA, as build backends write them for a release.
_PLAIN_HEADER = re.compile(rb"Metadata-Version: [\d.]+\nName: neuralforecast\nVersion: (\d+(?:\.\d+)*)\n")


def dist_infos_in(folder: Path) -> list[Path]:
    """The dist-info folders of neuralforecast in this folder, sorted. There should be exactly one."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if _FOLDER.fullmatch(entry.name))
    except OSError as error:
        raise InstallEnvironmentError(
            f"Cannot read {folder}: {error.strerror}. Re-run as a user with read access."
        ) from error
    return [folder / name for name in names if (folder / name).is_dir()]


def editable_checkout(dist_info: Path) -> Optional[Path]:
    """The checkout that an editable install points to (PEP 610, PEP 660); None for any other install."""
    from urllib.parse import unquote, urlsplit

    try:
        direct_url = json.loads(read_file(dist_info / "direct_url.json"))
        if direct_url["dir_info"]["editable"] is True:
            return Path(unquote(urlsplit(direct_url["url"]).path))
    except (NfpatchError, OSError, ValueError, KeyError, TypeError):
        pass
    return None


def version_of(dist_info: Path) -> str:
    """The normalized version in METADATA. Raises InstallEnvironmentError if METADATA is damaged or contradictory."""
    path = dist_info / "METADATA"
    content = read_metadata(path)
    plain = _PLAIN_HEADER.match(content)
    if plain is not None and dist_info.name == f"{DISTRIBUTION}-{plain[1].decode()}.dist-info":
        return plain[1].decode()
    from email.parser import Parser

    from packaging.utils import canonicalize_name, canonicalize_version

    try:
        header = Parser().parsestr(content.decode("utf-8"), headersonly=True)
    except UnicodeDecodeError as error:
        raise _untrusted(path, "is not UTF-8") from error
    if canonicalize_name(header.get("Name", "").strip()) != DISTRIBUTION:
        raise _untrusted(path, f"does not name {DISTRIBUTION}")
    if not header.get("Version"):
        raise _untrusted(path, "has no version")
    version = checked_version(header["Version"].strip(), path)
    found = _FOLDER.fullmatch(dist_info.name)
    folder_version = "" if found is None else found[1]
    if canonicalize_version(folder_version.replace("_", "-")) != canonicalize_version(version):
        raise _untrusted(path, f"has version {version}, but the name of its folder has {folder_version}")
    return version


def checked_version(version: str, origin: Path) -> str:
    """A normalized version. Raises InstallEnvironmentError if it is invalid; `origin` is the file that contains it."""
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version))
    except InvalidVersion as error:
        raise _untrusted(origin, f"has the version {version!r}, which is not valid (PEP 440)") from error


def read_metadata(path: Path) -> bytes:
    """The content of a file that every install has. Raises InstallEnvironmentError if it is missing."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise InstallEnvironmentError(
            f"{path} is missing: the install is incomplete. Reinstall it: "
            f"`pip install --force-reinstall --no-deps {DISTRIBUTION}==VERSION`."
        ) from error


def _untrusted(path: Path, what: str) -> InstallEnvironmentError:
    return InstallEnvironmentError(
        f"{path} {what}. Reinstall neuralforecast: `pip install --force-reinstall --no-deps {DISTRIBUTION}==VERSION`."
    )
