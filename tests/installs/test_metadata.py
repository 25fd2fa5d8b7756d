"""What nfpatch reads from a dist-info folder, whichever installer wrote it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from releases import RELEASES, read_member
from support import ROOT

from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.metadata import dist_infos_in, editable_checkout, version_of

PLAIN = b"Metadata-Version: 2.1\nName: neuralforecast\nVersion: 1.7.4\nSummary: forecasts\n\nVersion: 9.9\n"


def dist_info(folder: Path, metadata: bytes, name: str = "neuralforecast-1.7.4") -> Path:
    made = folder / f"{name}.dist-info"
    made.mkdir()
    (made / "METADATA").write_bytes(metadata)
    return made


@pytest.mark.parametrize(
    ("metadata", "name", "version"),
    [
        pytest.param(PLAIN, "neuralforecast-1.7.4", "1.7.4", id="plain"),
        pytest.param(PLAIN.replace(b"\n", b"\r\n"), "neuralforecast-1.7.4", "1.7.4", id="CRLF"),
        pytest.param(PLAIN.replace(b"neural", b"Neural"), "NeuralForecast-1.7.4", "1.7.4", id="another spelling"),
        pytest.param(
            b"Version: 1.7.4\nAuthor: \xc3\xa9\nName: neuralforecast\n", "neuralforecast-1.7.4", "1.7.4", id="order"
        ),
        pytest.param(b"Name:neuralforecast \nVersion:\t1.7.4 \n", "neuralforecast-1.7.4", "1.7.4", id="blanks"),
        pytest.param(
            b"Summary: Name: mlforecast\n Version: 2\nName: neuralforecast\nVersion: 1.7.4\n",
            *("neuralforecast-1.7.4", "1.7.4"),
            id="a continued line",
        ),
        pytest.param(PLAIN.replace(b"1.7.4", b"1.7"), "neuralforecast-1.7.0", "1.7", id="zeros"),
        pytest.param(PLAIN.replace(b"1.7.4", b"3.2.0rc1"), "neuralforecast-3.2.0rc1", "3.2.0rc1", id="pre-release"),
        pytest.param(PLAIN.replace(b"1.7.4", b"1.7.4-1"), "neuralforecast-1.7.4_1", "1.7.4.post1", id="normal form"),
        pytest.param(PLAIN.replace(b"1.7.4", b"1.7.4+us.1"), "neuralforecast-1.7.4+us.1", "1.7.4+us.1", id="local"),
    ],
)
def test_the_version_is_the_normalized_one_of_the_header(
    metadata: bytes, name: str, version: str, tmp_path: Path
) -> None:
    made = dist_info(tmp_path, metadata, name)
    assert version_of(made) == version
    assert dist_infos_in(tmp_path) == [made]


def test_every_release_has_a_header_that_is_read_without_a_parser(tmp_path: Path) -> None:
    for release in RELEASES:
        made = dist_info(
            tmp_path, read_member(release, f"neuralforecast-{release}.dist-info/METADATA"), f"neuralforecast-{release}"
        )
        assert version_of(made) == importlib.metadata.PathDistribution(made).version == release
    script = (
        "import sys; from pathlib import Path; from nfpatch.installs.metadata import dist_infos_in, version_of\n"
        f"for folder in dist_infos_in(Path({str(tmp_path)!r})): version_of(folder)\n"
        "print(*{'email', 'packaging', 'importlib.metadata'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("metadata", [PLAIN, PLAIN.replace(b"\n", b"\r\n")], ids=["plain", "CRLF"])
def test_a_folder_name_with_another_version_is_ignored(metadata: bytes, tmp_path: Path) -> None:
    with pytest.raises(InstallEnvironmentError, match=r"1\.7\.4.*1\.7\.5"):
        version_of(dist_info(tmp_path, metadata, "neuralforecast-1.7.5"))


@pytest.mark.parametrize(
    ("content", "checkout"),
    [
        ({"url": "file:///home/a%20b/neuralforecast", "dir_info": {"editable": True}}, "/home/a b/neuralforecast"),
        ({"url": "file:///home/neuralforecast", "dir_info": {}}, None),
        ({"url": "https://example.org/neuralforecast.git", "vcs_info": {"vcs": "git", "commit_id": "0"}}, None),
        ([], None),
    ],
)
def test_only_an_editable_install_has_a_checkout(content: object, checkout: str | None, tmp_path: Path) -> None:
    made = dist_info(tmp_path, PLAIN)
    assert editable_checkout(made) is None
    (made / "direct_url.json").write_text(json.dumps(content))
    assert editable_checkout(made) == (None if checkout is None else Path(checkout))
