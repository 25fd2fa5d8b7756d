"""Which install of neuralforecast a command uses; it is never imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_releases import unpack
from support import (
    NBEATSX,
    ROOT,
    SOME_PATCHES,
    TFT,
    answer,
    dist_info,
    environment,
    false_record_rows,
    invoke,
    make_venv,
    old_interpreters,
    on_some,
    pip,
    run_nfpatch,
    site_packages_of,
    snapshot,
    unlisted_files,
)

from nfpatch.installs.find import find_install

pytestmark = pytest.mark.fake_releases

BOTH = {NBEATSX, TFT}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Another interpreter, in whose environment only neuralforecast 1.7.4 is installed."""
    interpreter = make_venv(tmp_path / "other")
    unpack("1.7.4", site_packages_of(interpreter))
    return interpreter


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources of 1.7.4 as in a clone, without a dist-info."""
    folder = unpack("1.7.4", tmp_path / "checkout")
    shutil.rmtree(dist_info(folder))
    return folder


def found_by(*arguments: object, **options: Any) -> str:
    """The site-packages folder that `status`, in a new process, uses."""
    result = run_nfpatch("status", "--json", *arguments, **options)
    assert result.returncode == 0, result.stderr
    return str(json.loads(result.stdout)["neuralforecast"]["site_packages"])


def assert_patched_and_reverted(folder: Path, *arguments: object) -> None:
    """Check that `apply` patches 1.7.4, and that `revert` restores the whole folder."""
    before = snapshot(folder)
    changed = answer("apply", *SOME_PATCHES, *arguments)["changed"]
    assert set(changed) >= BOTH
    assert {p["state"] for p in answer("status", *arguments)["patches"] if p["id"] in SOME_PATCHES} == {"applied"}
    assert answer("revert", *arguments)["changed"] == changed
    assert snapshot(folder) == before


def assert_environment_error(path: Path, fault: str, remedy: str, unchanged: Path, *arguments: object) -> None:
    """Check for exit code 4 and an error that names the path, the fault and the remedy; nothing is changed."""
    before = snapshot(unchanged)
    for command in ("status", "apply", "revert"):
        result = invoke(*on_some(command), *arguments)
        assert result.exit_code == 4, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert "Traceback" not in line
        for part in (path, fault, remedy):
            assert str(part) in line

        as_json = invoke(*on_some(command), "--json", *arguments)
        document = json.loads(as_json.stdout)
        assert as_json.exit_code == document["exit_code"] == 4
        assert line.endswith(document["error"])
    assert snapshot(unchanged) == before


# --- which install is used


def test_the_interpreter_that_runs_nfpatch_is_the_default(site: Path, tmp_path: Path) -> None:
    assert found_by(env=environment(ROOT, site), cwd=tmp_path) == str(site)


def test_the_site_packages_of_another_interpreter_are_found_without_nfpatch_in_it(python: Path) -> None:
    without = subprocess.run([python, "-c", "import nfpatch"], env=environment(), cwd="/", capture_output=True)
    assert b"No module named 'nfpatch'" in without.stderr
    assert_patched_and_reverted(python.parent.parent, "--python", python)


@pytest.mark.parametrize("version", [(3, 7), (3, 8)], ids=["3.7", "3.8"])
def test_the_other_interpreter_may_be_older_than_nfpatch_supports(version: tuple[int, int], tmp_path: Path) -> None:
    if version not in old_interpreters():
        pytest.skip(f"this machine has no Python {version[0]}.{version[1]}")
    python = make_venv(tmp_path / "old", old_interpreters()[version])
    site = unpack("1.7.4", site_packages_of(python))
    assert answer("status", "--python", python)["neuralforecast"]["site_packages"] == str(site)
    assert_patched_and_reverted(site, "--python", python)


@pytest.mark.parametrize("spelling", ["./python", "python", "../bin/python", "~/other/bin/python"])
def test_the_path_of_an_interpreter_may_be_relative_or_in_the_home_folder(
    spelling: str, python: Path, tmp_path: Path
) -> None:
    variables = {**environment(ROOT), "HOME": str(tmp_path)}
    assert found_by("--python", spelling, cwd=python.parent, env=variables) == str(site_packages_of(python))


def test_the_name_of_an_interpreter_is_looked_up_on_path(python: Path, tmp_path: Path) -> None:
    variables = {**environment(ROOT), "PATH": str(python.parent)}
    assert found_by("--python", "python", cwd=tmp_path, env=variables) == str(site_packages_of(python))


def test_site_packages_has_precedence_over_python(released: Callable[[str], Path], python: Path) -> None:
    named = released("1.7.5")
    for other in (python, "no such interpreter"):
        document = answer("status", "--site-packages", named, "--python", other)
        assert document["neuralforecast"] == {
            "version": "1.7.5",
            "site_packages": str(named),
            "package": str(named / "neuralforecast"),
        }


def test_site_packages_may_be_relative_or_in_the_home_folder(site: Path) -> None:
    variables = {**environment(ROOT), "HOME": str(site.parent)}
    for spelling in (".", f"../{site.name}", f"~/{site.name}"):
        found = found_by("--site-packages", spelling, cwd=site, env=variables)
        assert Path(found).samefile(site)


def test_the_training_process_gets_the_same_folder(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(site.parent))
    found = find_install(Path("python3.7"), Path(f"~/{site.name}"))
    assert (found.python, found.extra_path) == (Path("python3.7"), (site,))
    assert find_install(site_packages=site).python == Path(sys.executable)


def test_the_first_install_on_the_path_is_used_as_by_import(released: Callable[[str], Path]) -> None:
    newer, older = released("1.7.5"), released("1.7.4")
    assert found_by(env=environment(ROOT, newer, older)) == str(newer)
    assert found_by(env=environment(ROOT, older, newer)) == str(older)


def test_a_dist_info_does_not_apply_to_a_package_elsewhere_on_the_path(site: Path, checkout: Path) -> None:
    result = run_nfpatch("status", env=environment(ROOT, checkout, site))
    assert f"(checkout: {checkout / 'neuralforecast'})" in result.stdout
    assert found_by(env=environment(ROOT, site, checkout)) == str(site)


@pytest.mark.parametrize("variable", ["PYTHONSAFEPATH", "PYTHONUNBUFFERED"], ids=["safe path", "default"])
def test_the_working_folder_is_searched_if_the_path_names_it(variable: str, site: Path) -> None:
    assert found_by(cwd=site, env={**environment(site, ROOT), variable: "1"}) == str(site)


def test_the_working_folder_may_have_been_deleted(site: Path, tmp_path: Path) -> None:
    script = "import os, runpy; os.rmdir(os.getcwd()); runpy.run_module('nfpatch', run_name='__main__')"
    (tmp_path / "gone").mkdir()
    command = [sys.executable, "-c", script, "status"]
    result = subprocess.run(command, cwd=tmp_path / "gone", env=environment(ROOT, site), capture_output=True, text=True)
    assert f"neuralforecast 1.7.4 in {site}" in result.stdout, result.stderr


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """A folder with neuralforecast that this user may not read."""
    if os.geteuid() == 0:
        pytest.skip("root may read every folder")
    folder = unpack("1.7.5", tmp_path / "unreadable")
    folder.chmod(0)
    yield folder
    folder.chmod(0o755)


def test_an_unreadable_folder_on_the_path_is_skipped_as_by_import(site: Path, unreadable: Path) -> None:
    assert found_by(env=environment(ROOT, unreadable, site)) == str(site)


def test_the_working_folder_is_not_on_the_path(site: Path, tmp_path: Path) -> None:
    bare = make_venv(tmp_path / "bare")
    variables = environment(ROOT)
    own = run_nfpatch("status", cwd=site, env=variables)
    assert str(site) not in own.stdout
    other = run_nfpatch("status", "--python", bare, cwd=site, env=variables)
    assert (other.returncode, other.stdout) == (4, "")


# --- nothing is imported


def test_a_package_that_cannot_be_imported_can_be_patched_and_reverted(python: Path) -> None:
    site = site_packages_of(python)
    (site / "neuralforecast" / "__init__.py").write_text("raise RuntimeError('broken')\n")
    assert b"broken" in subprocess.run([python, "-c", "import neuralforecast"], capture_output=True).stderr
    for arguments in (("--python", python), ("--site-packages", site)):
        assert_patched_and_reverted(site, *arguments)


def test_neither_neuralforecast_nor_torch_is_ever_imported(python: Path, tmp_path: Path) -> None:
    site, mark = site_packages_of(python), tmp_path / "imported"
    for package in ("neuralforecast", "torch", "pytorch_lightning"):
        (site / package).mkdir(exist_ok=True)
        (site / package / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    before = snapshot(site)
    for options, variables in (
        (("--python", python), environment(ROOT)),
        (("--site-packages", site), environment(ROOT)),
        ((), environment(ROOT, site)),
    ):
        for command in ("status", "apply", "revert"):
            run_nfpatch(*on_some(command), *options, env=variables).check_returncode()
        assert snapshot(site) == before
    assert not mark.exists()
    subprocess.run([python, "-c", "import neuralforecast"], check=True)
    assert mark.exists()


# --- source checkouts

BUILD_BACKENDS = {  # setuptools finds the package by an import hook, hatchling puts its folder on the path
    "setuptools": (
        ["setuptools"],
        ".",
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "neuralforecast"\nversion = "1.7.4"\n'
        '[tool.setuptools]\npackages = ["neuralforecast"]\n',
    ),
    "hatchling": (
        ["hatchling", "editables"],
        "src",
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "neuralforecast"\nversion = "1.7.4"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["src/neuralforecast"]\n',
    ),
}


@pytest.mark.network
@pytest.mark.parametrize("backend", BUILD_BACKENDS)
def test_an_editable_install_is_patched_only_with_allow_editable(
    backend: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # not even the bytecode of an import hook may appear
    requirements, below, project_file = BUILD_BACKENDS[backend]
    (checkout / "pyproject.toml").write_text(project_file)
    sources = checkout / below
    sources.mkdir(exist_ok=True)
    if below != ".":
        (checkout / "neuralforecast").rename(sources / "neuralforecast")
    python = make_venv(tmp_path / "other")
    pip(python, "install", "--quiet", "--no-compile", *requirements)
    pip(python, "install", "--quiet", "--no-compile", "--no-deps", "--no-build-isolation", "--editable", checkout)
    before = snapshot(tmp_path)

    status = invoke("status", "--python", python)
    assert f"(editable: {sources / 'neuralforecast'})" in status.stdout
    assert "applicable" in status.stdout

    refused = invoke("apply", *SOME_PATCHES, "--python", python)
    assert refused.exit_code == 3
    (line,) = refused.stderr.splitlines()
    assert str(sources / "neuralforecast") in line
    assert "--allow-editable" in line
    assert snapshot(tmp_path) == before

    changed = answer("apply", *SOME_PATCHES, "--allow-editable", "--python", python)["changed"]
    assert set(changed) >= BOTH
    patched = snapshot(sources)
    assert all(patched[file] != before.get((sources / file).relative_to(tmp_path).as_posix()) for file in changed)
    assert false_record_rows(site_packages_of(python)) == []
    assert unlisted_files(site_packages_of(python)) == []

    assert answer("revert", "--python", python)["changed"] == changed
    assert snapshot(tmp_path) == before


def test_a_checkout_on_the_path_is_patched_only_with_allow_editable(checkout: Path) -> None:
    before, variables = snapshot(checkout), environment(ROOT, checkout)
    assert f"(checkout: {checkout / 'neuralforecast'})" in run_nfpatch("status", env=variables).stdout

    for options in ([], ["--prove"]):
        refused = run_nfpatch("apply", *options, env=variables)
        assert refused.returncode == 3
        (line,) = refused.stderr.splitlines()
        assert str(checkout / "neuralforecast") in line
        assert "--allow-editable" in line
        assert snapshot(checkout) == before

    applied = run_nfpatch("apply", *SOME_PATCHES, "--allow-editable", "--json", env=variables)
    assert set(json.loads(applied.stdout)["changed"]) >= BOTH
    assert snapshot(checkout) != before
    run_nfpatch("revert", env=variables).check_returncode()
    assert snapshot(checkout) == before


# --- damaged installs


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        pytest.param("METADATA", None, "", id="METADATA missing"),
        pytest.param("METADATA", b"", "METADATA", id="METADATA empty"),
        pytest.param("METADATA", b"Name: neuralforecast\n\nVersion: 1.7.4\n", "METADATA", id="no version"),
        pytest.param("METADATA", b"Name: neuralforecast\nVersion: new\n", "PEP 440", id="no PEP 440"),
        pytest.param("METADATA", b"Name: mlforecast\nVersion: 1.7.4\n", "METADATA", id="another project"),
        pytest.param("METADATA", b"Name: neuralforecast\nVersion: 1.7.5\n", "1.7.4", id="another version"),
        pytest.param("METADATA", b"Name: neuralforecast\nAuthor: \xff\n", "UTF-8", id="METADATA not UTF-8"),
        pytest.param("RECORD", None, "", id="RECORD missing"),
        pytest.param("RECORD", b"", "RECORD", id="RECORD empty"),
        pytest.param("RECORD", b"a.py,,\nb.py,sha256=x\n", "line 2", id="RECORD with a short row"),
        pytest.param("RECORD", b"a.py,,\n\nb.py,,\n", "line 2", id="RECORD with a blank row"),
        pytest.param("RECORD", b'a.py,,\n"b.py,,\n', "line 2", id="RECORD with an open quote"),
        pytest.param("RECORD", b"a.py,,\n\xff.py,,\n", "UTF-8", id="RECORD not UTF-8"),
    ],
)
def test_a_damaged_dist_info_is_an_environment_error(name: str, content: bytes | None, fault: str, site: Path) -> None:
    path = dist_info(site) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert_environment_error(path, fault, "einstall", site, "--site-packages", site)


def test_two_dist_infos_are_an_environment_error(site: Path) -> None:
    shutil.copytree(dist_info(site), site / "neuralforecast-1.7.3.dist-info")
    both = "neuralforecast-1.7.3.dist-info, neuralforecast-1.7.4.dist-info"
    assert_environment_error(site, both, "pip uninstall neuralforecast", site, "--site-packages", site)


def test_a_dist_info_without_its_package_is_an_environment_error(site: Path) -> None:
    shutil.rmtree(site / "neuralforecast")
    assert_environment_error(dist_info(site), "", "einstall", site, "--site-packages", site)


@pytest.mark.parametrize("content", [None, b"", b"__version__ = 'main'\n"], ids=["missing", "silent", "no PEP 440"])
def test_a_checkout_without_a_version_is_an_environment_error(content: bytes | None, checkout: Path) -> None:
    path = checkout / "neuralforecast" / "__init__.py"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert_environment_error(
        path.parent, "version" if content is not None else "missing", "nstall", checkout, "--site-packages", checkout
    )


def test_a_missing_neuralforecast_is_an_environment_error(tmp_path: Path) -> None:
    python, empty = make_venv(tmp_path / "bare"), tmp_path / "empty"
    empty.mkdir()
    assert_environment_error(python, "No neuralforecast", "--site-packages DIR", tmp_path, "--python", python)
    assert_environment_error(empty, "No neuralforecast", "--python PATH", tmp_path, "--site-packages", empty)


@pytest.mark.parametrize("name", ["missing", "a file"])
def test_a_site_packages_that_is_no_folder_is_an_environment_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    path = tmp_path / name
    assert_environment_error(path, "", "", tmp_path, "--site-packages", path)


def test_an_unreadable_site_packages_is_an_environment_error(site: Path, unreadable: Path) -> None:
    assert_environment_error(unreadable, "permission denied", "", site, "--site-packages", unreadable)


@pytest.mark.parametrize(
    ("content", "mode", "fault"),
    [
        pytest.param(None, 0o755, "No such file", id="missing"),
        pytest.param("#!/bin/sh\n", 0o644, "Permission denied", id="not executable"),
        pytest.param("\0\0\0\0", 0o755, "Exec format error", id="not a program"),
        pytest.param("#!/bin/sh\necho hello\n", 0o755, "", id="not a Python"),
        pytest.param("#!/bin/sh\n", 0o755, "", id="silent"),
        pytest.param("#!/bin/sh\necho no home >&2\nexit 3\n", 0o755, "code 3: no home", id="failing"),
    ],
)
def test_an_interpreter_that_does_not_run_is_an_environment_error(
    content: str | None, mode: int, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "python"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    assert_environment_error(path, fault, "Python interpreter", tmp_path, "--python", path)


def test_the_folder_of_an_environment_as_interpreter_is_an_environment_error(python: Path) -> None:
    folder = python.parent.parent
    assert_environment_error(folder, "Permission denied", "`bin/python`", folder, "--python", folder)


def test_an_error_has_a_traceback_only_with_the_option(tmp_path: Path) -> None:
    quiet = run_nfpatch("status", "--site-packages", tmp_path)
    assert quiet.returncode == 4
    assert "Traceback" not in quiet.stderr
    loud = run_nfpatch("status", "--traceback", "--site-packages", tmp_path)
    assert loud.returncode == 4
    assert "Traceback (most recent call last)" in loud.stderr
