"""An overlay is a copy of the installed package with some files replaced; the install is never changed."""

import os
from pathlib import Path

import pytest

from nfpatch.engine.sources import build_overlay


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "site-packages" / "neuralforecast"
    for name, content in {
        "__init__.py": b'__version__ = "1.7.4"\n',
        "models/tft.py": b"original\r\n",
        "models/nhits.py": b"other\n",
        "data/table.bin": bytes(range(256)),
        "models/__pycache__/tft.cpython-311.pyc": b"compiled",
    }.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return package


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_chosen_files_are_replaced_and_others_copied_without_bytecode(package: Path, tmp_path: Path) -> None:
    folder = build_overlay(package, tmp_path / "preview", {"neuralforecast/models/tft.py": b"patched\n"})

    assert folder == tmp_path / "preview"
    assert contents(folder) == {
        "neuralforecast/__init__.py": b'__version__ = "1.7.4"\n',
        "neuralforecast/models/tft.py": b"patched\n",
        "neuralforecast/models/nhits.py": b"other\n",
        "neuralforecast/data/table.bin": bytes(range(256)),
    }


def test_an_install_of_read_only_links_is_unchanged(package: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cached-tft.py"
    cached.write_bytes(b"original\r\n")
    cached.chmod(0o444)
    (package / "models/tft.py").unlink()
    (package / "models/tft.py").symlink_to(cached)
    before = contents(package)

    folder = build_overlay(package, tmp_path / "preview", {"neuralforecast/models/tft.py": b"patched\n"})
    copy = folder / "neuralforecast/models/tft.py"
    copy.write_bytes(b"written again")

    assert contents(package) == before
    assert cached.read_bytes() == b"original\r\n"
    assert not copy.is_symlink()
    assert os.stat(folder / "neuralforecast/models/nhits.py").st_nlink == 1


def test_replacing_a_missing_file_is_an_error(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neuralforecast/models/tftt\.py"):
        build_overlay(package, tmp_path / "preview", {"neuralforecast/models/tftt.py": b""})


def test_an_existing_overlay_is_not_overwritten(package: Path, tmp_path: Path) -> None:
    build_overlay(package, tmp_path / "preview", {})

    with pytest.raises(FileExistsError):
        build_overlay(package, tmp_path / "preview", {})


def test_runtime_modules_are_added_replaced_and_removed(package: Path, tmp_path: Path) -> None:
    names = ("kept", "replaced", "left_out", "new")
    kept, replaced, left_out, new = (f"neuralforecast/_nfpatch/{name}.py" for name in names)
    (package / "_nfpatch").mkdir()
    for file in (kept, replaced, left_out):
        (package.parent / file).write_bytes(b"installed\n")
    before = contents(package)

    folder = build_overlay(package, tmp_path / "preview", {replaced: b"other\n", left_out: None, new: b"new\n"})

    found = contents(folder)
    assert {file: found.get(file) for file in (kept, replaced, left_out, new)} == {
        kept: b"installed\n",
        replaced: b"other\n",
        left_out: None,
        new: b"new\n",
    }
    assert contents(package) == before


def test_removing_a_missing_runtime_module_is_no_error(package: Path, tmp_path: Path) -> None:
    folder = build_overlay(package, tmp_path / "preview", {"neuralforecast/_nfpatch/gone.py": None})
    assert not (folder / "neuralforecast/_nfpatch").exists()


@pytest.mark.parametrize("key", ["neuralforecast/_nfpatch/a/b.py", "neuralforecast/_nfpatch.py", "_nfpatch/a.py"])
def test_files_are_added_only_to_the_runtime_package(key: str, package: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=key):
        build_overlay(package, tmp_path / "preview", {key: b""})
