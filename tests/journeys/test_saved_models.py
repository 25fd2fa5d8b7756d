"""Models that a patched install saves load on an unpatched one of the same release, and the other way round."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TORCHRUN, environment, invoke, long

HERE = Path(__file__).parent
SCRIPT = HERE / "saved_both_ways.py"


def digests(site: Path, python: Path, verb: str, folder: Path, *launcher: str) -> list[dict[str, str]]:
    """The digests that each process prints after it saved or loaded."""
    variables = {**environment(site, HERE), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-W", "ignore", *launcher, SCRIPT, verb, folder]
    done = subprocess.run(command, env=variables, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def contents(folder: Path) -> Iterator[bytes]:
    """The bytes of every saved file, and of each member of torch's zip files."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from map(archive.read, archive.namelist())


@pytest.mark.ddp
@pytest.mark.parametrize("release", ["3.3.0", long("1.7.4"), long("2.0.1")])
def test_saved_models_load_on_either_side_and_forecast_the_same_bits(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    plain = released(release)
    patched = plain.with_name("patched")
    subprocess.run(["cp", "-r", plain, patched], check=True)
    assert invoke("apply", "all", "--site-packages", patched).exit_code == 0
    for name, writer, reader, launcher in (
        ("by-patched", patched, plain, ()),
        ("by-released", plain, patched, ()),
        ("by-two", patched, plain, TORCHRUN),
    ):
        folder = tmp_path / name
        folder.mkdir()
        saved = digests(writer, training_env, "save", folder, *launcher)
        assert len(saved) == (2 if launcher else 1)
        assert all(each == saved[0] for each in saved)
        assert len(saved[0]) >= 9
        assert digests(reader, training_env, "load", folder) == saved[:1], name
        assert not any(b"_nfpatch" in content for content in contents(folder)), name
