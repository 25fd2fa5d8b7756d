"""The versions of the target interpreter's libraries, found without importing them, and errors for missing ones."""

import sys
import venv
from pathlib import Path
from typing import Optional

import pytest

from nfpatch.catalog import Case
from nfpatch.engine.probe import probe
from nfpatch.errors import InstallEnvironmentError
from nfpatch.proof.runner import run_proof
from nfpatch.proof.verdict import ProofCase


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the metadata of torch, Lightning and neuralforecast, which cannot be imported."""
    site = tmp_path / "site"
    for module, distribution, version in (
        ("torch", "torch", "2.1.0"),
        ("pytorch_lightning", "pytorch_lightning", "2.0.9"),
        ("neuralforecast", "neuralforecast", "1.7.4"),
    ):
        (site / module).mkdir(parents=True)
        (site / module / "__init__.py").write_text("raise SystemExit('imported')")
        info = site / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return site


@pytest.fixture
def bare_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    return tmp_path / "bare/bin/python"


def test_versions_and_paths_are_found_without_imports(bare_python: Path, site: Path) -> None:
    stack = probe(bare_python, [site])

    assert (stack.torch, stack.lightning) == ("2.1.0", "2.0.9")
    assert stack.python == ".".join(map(str, sys.version_info[:3]))
    assert stack.neuralforecast == site


def test_python_3_7_can_be_probed(python37: Path, site: Path) -> None:
    stack = probe(python37, [site])

    assert stack.python.startswith("3.7.")
    assert (stack.torch, stack.lightning) == ("2.1.0", "2.0.9")


def test_without_torch_the_error_names_the_packages_to_install(bare_python: Path) -> None:
    with pytest.raises(InstallEnvironmentError, match=r"no torch and no pytorch-lightning.*pip install torch"):
        probe(bare_python)


@pytest.mark.parametrize("content", [None, "no interpreter\n", "#!/bin/sh\necho broken >&2\nexit 3\n"])
def test_an_interpreter_that_does_not_run_is_named(content: Optional[str], tmp_path: Path) -> None:
    python = tmp_path / "python"
    if content is not None:
        python.write_text(content)
        python.chmod(0o755)

    with pytest.raises(InstallEnvironmentError, match=str(python)):
        probe(python)


def test_a_lightning_that_cannot_fork_is_an_error_before_any_start(bare_python: Path, site: Path) -> None:
    info = next(site.glob("pytorch_lightning-*.dist-info"))
    metadata = (info / "METADATA").read_text().replace("2.0.9", "1.6.5")
    (info / "METADATA").write_text(metadata)
    info.rename(site / "pytorch_lightning-1.6.5.dist-info")
    case = ProofCase("fit", None, Case("NHITS", "MAE"), "installed", "pass", launcher="fork")

    with pytest.raises(InstallEnvironmentError, match=r"Lightning 1\.6\.5 cannot train in forked processes"):
        run_proof(bare_python, [case], {"installed": site}, extra_path=[site])


def test_missing_requirements_of_spark_are_an_error_before_any_start(
    bare_python: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ProofCase("fit", None, Case("NHITS", "MAE"), "installed", "pass", launcher="spark")
    with pytest.raises(InstallEnvironmentError, match=r"no pyspark and no fugue.*pip install 'pyspark>=3\.4,<4' fugue"):
        run_proof(bare_python, [case], {"installed": site}, extra_path=[site])

    for module in ("pyspark", "fugue"):
        (site / module).mkdir()
        (site / module / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no-java"))
    with pytest.raises(InstallEnvironmentError, match=r"no Java to start Spark with, .*no-java/bin/java: install one"):
        run_proof(bare_python, [case], {"installed": site}, extra_path=[site])
