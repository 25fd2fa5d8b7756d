"""The released wheels of neuralforecast, downloaded once and kept in the clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RELEASES = (
    *("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"),
    *("1.6.0", "1.6.1", "1.6.2", "1.6.3", "1.6.4"),
    *("1.7.0", "1.7.1", "1.7.2", "1.7.3", "1.7.4", "1.7.5", "1.7.6", "1.7.7"),
    *("2.0.0", "2.0.1", "3.0.0", "3.0.1", "3.0.2"),
    *("3.1.0", "3.1.1", "3.1.2", "3.1.4", "3.1.5", "3.1.6", "3.1.7", "3.1.8", "3.1.9"),
    *("3.2.0", "3.2.1", "3.2.2", "3.3.0"),
)

CACHE = Path(__file__).resolve().parent.parent / ".cache"
WHEELS = CACHE / "wheels"


def wheel_of(release: str) -> Path:
    """The wheel of this release, downloaded with pip unless it exists."""
    wheel = _wheel_path(release)
    if not wheel.exists():
        WHEELS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                    *("--no-deps", "--only-binary", ":all:", "--dest", folder, f"neuralforecast=={release}"),
                ],
                check=True,
            )
            os.replace(Path(folder) / wheel.name, wheel)
    return wheel


def download_all(releases: Iterable[str] = RELEASES) -> list[Path]:
    """The wheels of these releases, several downloads at a time, with progress on standard error."""
    wanted = list(releases)
    missing = [release for release in wanted if not _wheel_path(release).exists()]
    with ThreadPoolExecutor(4) as pool:
        for number, wheel in enumerate(pool.map(wheel_of, missing), 1):
            print(f"  {number}/{len(missing)} {wheel.name}", file=sys.stderr, flush=True)
    return [_wheel_path(release) for release in wanted]


def unlisted_on_the_index() -> list[str]:
    """The releases from 1.0.0 on that are on the package index, but not in `RELEASES`; none if it does not respond."""
    command = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", "neuralforecast"]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    versions = re.findall(r"^Available versions: (.*)$", output, re.MULTILINE)
    return [version for version in ", ".join(versions).split(", ") if version[:1] > "0" and version not in RELEASES]


def read_member(release: str, name: str) -> bytes | None:
    """A file of the wheel of this release; None if it has no such file."""
    with zipfile.ZipFile(wheel_of(release)) as archive:
        return archive.read(name) if name in archive.namelist() else None


def unpack(release: str, folder: Path) -> Path:
    """Install this release into `folder`, as a site-packages folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel_of(release)) as archive:
        archive.extractall(folder)
    return folder


def _wheel_path(release: str) -> Path:
    return WHEELS / f"neuralforecast-{release}-py3-none-any.whl"


if __name__ == "__main__":
    download_all()
