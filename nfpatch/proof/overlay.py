"""An overlay: a whole neuralforecast source tree in a folder of its own, with chosen files replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def build_overlay(package: Path, folder: Path, replacements: Mapping[str, bytes]) -> Path:
    """Copies `package` into `folder` with some files replaced, and returns the folder to put on `sys.path`.

    `package` is the installed `neuralforecast/` folder; it stays untouched, and nothing of the copy is linked to it.
    Keys of `replacements` are posix paths relative to the folder that holds the package, as
    `neuralforecast/models/tft.py`. `folder` is made where it is missing and must not hold the package yet.

    Raises ValueError for a key that names no file of the package, because such a replacement would prove nothing.
    """
    missing = set(replacements)
    for relative in _source_files(package):
        key = (Path(package.name) / relative).as_posix()
        target = folder / package.name / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        # Contents only: files of an install may be read-only, and hard links of a cache that others share.
        with target.open("xb") as file:
            file.write(replacements[key] if key in replacements else (package / relative).read_bytes())
        missing.discard(key)
    if missing:
        raise ValueError(f"not in the package {package}: {', '.join(sorted(missing))}")
    return folder


def _source_files(package: Path) -> Iterator[Path]:
    """The files of a package relative to it, without the interpreter's caches."""
    for parent, folders, files in os.walk(package, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(parent, name).relative_to(package) for name in files)
