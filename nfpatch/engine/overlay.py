"""An overlay: a whole neuralforecast source tree in a folder of its own, with chosen files replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Optional

from nfpatch.installs.find import RUNTIME_FOLDER


def build_overlay(package: Path, folder: Path, replacements: Mapping[str, Optional[bytes]]) -> Path:
    """Copies `package` into `folder` with some files replaced, and returns the folder to put on `sys.path`.

    `package` is the installed `neuralforecast/` folder; it stays untouched, and nothing of the copy is linked to it.
    Keys of `replacements` are posix paths relative to the folder that holds the package, as
    `neuralforecast/models/tft.py`; a file whose content is None is left out. Runtime modules are added where the
    package has none. `folder` is made where it is missing and must not hold the package yet.

    Raises ValueError for any other key that names no file of the package, as such a replacement would prove nothing.
    """
    for relative in _source_files(package):
        key = (Path(package.name) / relative).as_posix()
        content = replacements[key] if key in replacements else (package / relative).read_bytes()
        if content is not None:
            _write_copy(folder / key, content)
    missing = {key for key in replacements if not (package.parent / key).is_file()}
    for key in sorted(missing):
        content = replacements[key]
        if PurePosixPath(key).parent != PurePosixPath(RUNTIME_FOLDER):
            raise ValueError(f"not in the package {package}: {key}")
        if content is not None:
            _write_copy(folder / key, content)
    return folder


def _write_copy(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Contents only: files of an install may be read-only, and hard links of a cache that others share.
    with target.open("xb") as file:
        file.write(content)


def _source_files(package: Path) -> Iterator[Path]:
    """The files of a package relative to it, without the interpreter's caches."""
    for parent, folders, files in os.walk(package, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(parent, name).relative_to(package) for name in files)
