"""Three small fake releases of neuralforecast, and an nfpatch that knows only these.

`VERSION/neuralforecast/` has the statements that the patches below expect in that release, and little else. It is never
imported. Tests marked `fake_releases` get it from the fixtures `site` and `released`, and need no wheels.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

import fingerprints
import pytest

from nfpatch import catalog
from nfpatch.fingerprints import Fingerprints, rendered

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
RELEASES = ("1.7.4", "1.7.5", "3.3.0")
# Some patches of each group, with those that they or their cases require.
PATCHES = (
    "load-on-fewer-devices",
    "multivariate-all-series",
    "multivariate-one-order",
    "nbeatsx-unused-out",
    "predict-on-all-devices",
    "predict-on-one-device",
    "ray-trial-on-one-device",
    "scaler-revin",
    "search-by-one-rank",
    "softssharp-position-scale",
    "spark-fit-from-weights",
    "spark-predict-scalers",
    "spark-series-of-ranks",
    "spark-trainer-arguments",
    "stemgnn-backcast",
    "tft-static-context",
    "tft-static-encoder",
    "tide-historic-projection",
    "timemixer-channel-mixing",
    "timemixer-unused-norm",
)


def read_member(release: str, name: str) -> bytes | None:
    """A file of this release; None if it has no such file."""
    path = FOLDER / release / name
    return path.read_bytes() if path.is_file() else None


def contents_of(release: str) -> dict[str, bytes]:
    """Every file of this release below site-packages, by path."""
    info = f"neuralforecast-{release}.dist-info"
    contents = {path.relative_to(FOLDER / release).as_posix(): path.read_bytes() for path in _files_of(release)}
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: neuralforecast\nVersion: {release}\n".encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{name},sha256={_digest_of(content)},{len(content)}" for name, content in contents.items()]
    return {**contents, f"{info}/RECORD": "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()}


def unpack(release: str, folder: Path) -> Path:
    """Write these files into a site-packages folder, and return it."""
    for name, content in contents_of(release).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def make_nfpatch(folder: Path) -> None:
    """Write a copy of nfpatch with the patches above and their fingerprints in these releases."""
    shutil.copytree(ROOT / "nfpatch", folder / "nfpatch", ignore=shutil.ignore_patterns("__pycache__", "patches"))
    patches = folder / "patches"
    shutil.copytree(ROOT / "patches" / "runtime", patches / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    for patch_id in PATCHES:
        shutil.copy(ROOT / "patches" / f"{patch_id.replace('-', '_')}.py", patches)
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(catalog, "patches_folder", lambda: patches)
        patching.setattr(fingerprints, "RELEASES", RELEASES)
        patching.setattr(fingerprints, "read_member", read_member)
        of_releases = fingerprints.fingerprints_of(catalog.Catalog(catalog.load_patches(), Fingerprints((), {}, {})))
    (patches / catalog.FINGERPRINTS_FILE_NAME).write_text(rendered(of_releases), encoding="utf-8")


def _files_of(release: str) -> list[Path]:
    return sorted(path for path in (FOLDER / release).rglob("*.py") if "__pycache__" not in path.parts)


def _digest_of(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
