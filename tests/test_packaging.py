"""The wheel and the sdist: their contents, and that they install and work on every supported Python."""

from __future__ import annotations

import email
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support import NBEATSX, ROOT, TFT, environment, interpreters, made_once, make_venv, pip, site_packages_of, snapshot

from nfpatch import __version__
from nfpatch.catalog import load_catalog

pytestmark = pytest.mark.network

PATCHES = {
    path.relative_to(ROOT / "patches").as_posix()
    for path in (ROOT / "patches").rglob("*")
    if path.suffix in (".py", ".json")
}
SUPPORTED = [(3, minor) for minor in range(9, 15)]


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, so that building leaves no files in the original."""

    def copy(folder: Path) -> None:
        ignored = shutil.ignore_patterns(".git", ".[!g]*", "__pycache__", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, folder, ignore=ignored, dirs_exist_ok=True)

    return made_once("clone", tmp_path_factory, copy)


@pytest.fixture(scope="session")
def distributions(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with nfpatch's sdist and the wheel made from it; without `build` only with the wheel."""
    command = [*("-m", "build", "--outdir")] if find_spec("build") else [*("-m", "pip", "wheel", "--no-deps", "-w")]

    def build(folder: Path) -> None:
        subprocess.run([sys.executable, *command, folder, clone], check=True)

    return made_once("distributions", tmp_path_factory, build)


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(distributions: Path) -> Path:
    if not find_spec("build"):
        pytest.skip("an sdist needs `build`")
    (found,) = distributions.glob("*.tar.gz")
    return found


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"nfpatch-{__version__}.dist-info/METADATA"))


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    return metadata_of(wheel)


def output_of(*command: object, cwd: Path, path: tuple[Path, ...] = ()) -> str:
    """The output of a command whose Python path has these folders in addition."""
    arguments = [str(word) for word in command]
    result = subprocess.run(arguments, cwd=cwd, env=environment(*path), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_lists_and_inspects(nfpatch: list[object], site: Path, cwd: Path, path: tuple[Path, ...] = ()) -> None:
    """Check that this nfpatch finds its patches and inspects an install."""
    listed = json.loads(output_of(*nfpatch, "list", "--json", cwd=cwd, path=path))
    assert [patch["id"] for patch in listed["patches"]] == [patch.id for patch in load_catalog().patches]
    status = json.loads(output_of(*nfpatch, "status", "--json", "--site-packages", site, cwd=cwd, path=path))
    assert {patch["state"] for patch in status["patches"]} <= {"applicable", "not-needed", "opt-in"}
    assert {NBEATSX, TFT} <= {
        file for patch in status["patches"] if patch["state"] == "applicable" for file in patch["files"]
    }


def assert_patches_and_reverts(nfpatch: list[object], site: Path, cwd: Path) -> None:
    """Check that this nfpatch patches and reverts an install."""
    assert_lists_and_inspects(nfpatch, site, cwd)
    before = snapshot(site)
    applied, reverted = (
        json.loads(output_of(*nfpatch, *command, "--json", "--site-packages", site, cwd=cwd))
        for command in (("apply", "all"), ("revert",))
    )
    assert {patch["state"] for patch in applied["patches"]} <= {"applied", "not-needed", "opt-in"}
    assert {NBEATSX, TFT} <= set(applied["changed"])
    assert reverted["changed"] == applied["changed"]
    assert snapshot(site) == before


def requirements_in(metadata: Message, version: tuple[int, int] = sys.version_info[:2]) -> list[Requirement]:
    """The requirements of nfpatch on this Python, without extras."""
    requirements = map(Requirement, metadata.get_all("Requires-Dist", []))
    on = {"python_version": "{}.{}".format(*version), "extra": ""}
    return [each for each in requirements if each.marker is None or each.marker.evaluate(on)]


# --- contents


def files_in(folder: Path, *names: str) -> set[str]:
    """The files of these folders of a checkout, as relative paths, without bytecode."""
    return {
        path.relative_to(folder).as_posix()
        for name in names
        for path in (folder / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_wheel_holds_only_the_package_the_patches_and_the_license(wheel: Path, clone: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"nfpatch-{__version__}.dist-info"
    patches = {f"nfpatch/{file}" for file in files_in(clone, "patches")}
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert names == files_in(clone, "nfpatch") | patches | about
    assert {f"nfpatch/patches/{name}" for name in PATCHES} == patches
    assert {"nbeatsx_unused_out.py", "runtime/ranks.py", "fingerprints.json"} <= PATCHES


def test_the_sdist_holds_only_what_reading_building_and_testing_need(sdist: Path, clone: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    folders = ("nfpatch", "patches", "tests", "scripts", "benchmarks", "docs")
    texts = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"}
    made_of = {"pyproject.toml", "hatch_build.py", "Makefile", ".gitignore", "PKG-INFO"}
    assert names == files_in(clone, *folders) | texts | made_of


def test_twine_accepts_both(distributions: Path, sdist: Path) -> None:
    checked = output_of(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir(), cwd=distributions)
    assert checked.count("PASSED") == len([*distributions.iterdir()]) == 2, checked


def test_the_metadata_names_the_license_and_the_tested_pythons(metadata: Message, wheel: Path) -> None:
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(f"nfpatch-{__version__}.dist-info/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(licence).hexdigest().startswith("cfc7749b96f63bd3"), "the unmodified license text"
    classifiers = [name for name in metadata.get_all("Classifier", []) if re.search(r"Python :: 3\.\d+$", name)]
    assert classifiers == [f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 14)]


def test_nfpatch_depends_on_four_packages_only(metadata: Message) -> None:
    assert [requirement.name for requirement in requirements_in(metadata)] == ["click", "libcst", "packaging", "rich"]
    assert metadata["Requires-Python"] == ">=3.9"


def links_in(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_the_package_index_shows_no_link_that_it_cannot_follow(metadata: Message) -> None:
    text = str(metadata.get_payload())
    assert "nfpatch verify" in text
    assert not [link for link in links_in(text) if not link.startswith(("https://", "#"))]


def test_the_package_index_shows_absolute_links_if_the_repository_has_an_address(clone: Path, tmp_path: Path) -> None:
    copy, address = tmp_path / "copy", "https://example.com/someone/nfpatch"
    for name in ("nfpatch", "patches"):
        shutil.copytree(clone / name, copy / name)
    for name in ("README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(clone / name, copy)
    facts = (clone / "pyproject.toml").read_text(encoding="utf-8")
    (copy / "pyproject.toml").write_text(facts.replace("[project.urls]", f'[project.urls]\nSource = "{address}"'))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, copy], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    relative = [link for link in links_in((clone / "README.md").read_text(encoding="utf-8")) if ":" not in link]
    absolute = links_in(str(metadata_of(wheel).get_payload()))
    assert len(relative) > 10
    for link in relative:
        kind = "raw" if link.endswith(".svg") else "blob"
        assert f"{address}/{kind}/v{__version__}/{link}" in absolute


# --- that they work


@pytest.mark.parametrize("version", SUPPORTED, ids="{0[0]}.{0[1]}".format)
def test_the_wheel_works_on_every_supported_python(
    version: tuple[int, int], wheel: Path, site: Path, tmp_path: Path
) -> None:
    if version not in interpreters():
        pytest.skip("requires this Python")
    python = make_venv(tmp_path / "env", interpreters()[version])
    pip(python, "install", "--quiet", "--no-compile", wheel)
    script = python.parent / "nfpatch"
    for nfpatch in ([script], [python, "-m", "nfpatch"]):
        assert output_of(*nfpatch, "--version", cwd=tmp_path) == f"nfpatch, version {__version__}\n"
    assert_patches_and_reverts([script], site, tmp_path)


@pytest.mark.parametrize("editable", [False, True], ids=["sdist", "editable"])
def test_nfpatch_can_be_installed_from_source(
    editable: bool, site: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue("clone" if editable else "sdist")
    python = make_venv(tmp_path / "env")
    pip(python, "install", "--quiet", "--no-compile", *(["--editable"] if editable else []), source)
    package = Path(output_of(python, "-c", "import nfpatch; print(nfpatch.__path__[0])", cwd=tmp_path).strip())
    assert package.parent.samefile(source if editable else site_packages_of(python))
    assert_lists_and_inspects([python.parent / "nfpatch"], site, tmp_path)


def test_a_bare_checkout_runs(clone: Path, site: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for folder in ("nfpatch", "patches"):
        shutil.copytree(clone / folder, bare / folder)
    assert_lists_and_inspects([sys.executable, "-m", "nfpatch"], site, tmp_path, path=(bare,))


def test_the_lowest_allowed_dependencies_work(wheel: Path, metadata: Message, site: Path, tmp_path: Path) -> None:
    version = min(version for version in interpreters() if version in SUPPORTED)
    pins = [f"{each.name}{each.specifier}".replace(">=", "==") for each in requirements_in(metadata, version)]
    assert all("==" in pin for pin in pins)
    python = make_venv(tmp_path / "env", interpreters()[version])
    pip(python, "install", "--quiet", "--no-compile", wheel, *pins)
    assert_patches_and_reverts([python.parent / "nfpatch"], site, tmp_path)
