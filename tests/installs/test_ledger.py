"""The ledger: written and read back whole, and never trusted when it cannot be nfpatch's own."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest
from support import TFT

from nfpatch import __version__
from nfpatch.errors import Refused
from nfpatch.installs.find import Install
from nfpatch.installs.ledger import (
    Ledger,
    PatchedFile,
    hash_of,
    ledger_path,
    original_path,
    read_ledger,
    read_original,
)

INIT = "neuralforecast/__init__.py"
COMPILED = "neuralforecast/models/__pycache__/tft.cpython-311.pyc"
LEDGER = Ledger(
    version="1.7.4",
    files={
        TFT: PatchedFile("111", "222", ("tft-static-context", "tft-static-encoder"), bytecode=(COMPILED,)),
        INIT: PatchedFile("333", "444", ("init",), link="../cache/init.py"),
    },
    record_sha256="555",
)
WRITTEN = f"""{{
 "schema": 2,
 "nfpatch": "{__version__}",
 "neuralforecast": "1.7.4",
 "record_sha256": "555",
 "files": {{
  "{INIT}": {{
   "original_sha256": "333",
   "patched_sha256": "444",
   "patches": [
    "init"
   ],
   "link": "../cache/init.py",
   "bytecode": []
  }},
  "{TFT}": {{
   "original_sha256": "111",
   "patched_sha256": "222",
   "patches": [
    "tft-static-context",
    "tft-static-encoder"
   ],
   "link": null,
   "bytecode": [
    "{COMPILED}"
   ]
  }}
 }}
}}
"""


def keep(install: Install, content: str) -> None:
    """Lets this be the ledger of the install."""
    install.home.mkdir()
    ledger_path(install).write_text(content)


def refusal(install: Install) -> str:
    """What is said instead of telling the ledger."""
    with pytest.raises(Refused) as refused:
        read_ledger(install)
    return str(refused.value)


def test_all_that_nfpatch_keeps_lies_in_one_folder_of_the_dist_info(install: Install) -> None:
    home = install.site_packages / "neuralforecast-1.7.4.dist-info" / "nfpatch"
    assert ledger_path(install) == home / "ledger.json"
    assert original_path(install, TFT) == home / "originals" / "neuralforecast" / "models" / "tft.py.orig"


def test_an_original_is_kept_in_that_folder_however_its_file_is_named(install: Install) -> None:
    assert original_path(install, "/etc/hostname") == install.home / "originals" / "etc" / "hostname.orig"


def test_a_ledger_stands_on_disk_in_the_order_of_its_files_and_is_read_back_whole(install: Install) -> None:
    assert LEDGER.to_bytes().decode() == WRITTEN
    keep(install, WRITTEN)
    assert read_ledger(install) == LEDGER


def test_an_install_without_a_ledger_carries_nothing(install: Install) -> None:
    assert read_ledger(install) == Ledger("1.7.4", {}, None)


def test_a_ledger_tells_the_patches_of_each_file_and_none_of_an_unknown_one() -> None:
    assert LEDGER.patches_of(TFT) == {"tft-static-context", "tft-static-encoder"}
    assert LEDGER.patches_of("neuralforecast/core.py") == frozenset()


def test_a_ledger_of_an_older_schema_is_understood(install: Install) -> None:
    keep(install, WRITTEN.replace('"schema": 2', '"schema": 1'))
    assert read_ledger(install) == LEDGER


def test_a_ledger_of_a_newer_schema_is_refused_with_what_to_do(install: Install) -> None:
    keep(
        install, WRITTEN.replace('"schema": 2', '"schema": 3').replace(f'"nfpatch": "{__version__}"', '"nfpatch": "9"')
    )
    assert refusal(install) == (
        f"{ledger_path(install)} was written by nfpatch 9, which is newer than this one ({__version__}). "
        "Upgrade nfpatch: `pip install --upgrade nfpatch`."
    )


def test_a_ledger_of_another_release_is_refused_with_what_to_do(install: Install) -> None:
    keep(install, WRITTEN.replace('"neuralforecast": "1.7.4"', '"neuralforecast": "1.7.3"'))
    assert refusal(install) == (
        f"{ledger_path(install)} speaks of neuralforecast 1.7.3, but 1.7.4 is installed. Reinstall it to start clean: "
        "`pip install --force-reinstall --no-deps neuralforecast==1.7.4`."
    )


def entry(**fields: object) -> dict[str, Any]:
    """What a ledger says of one file, with these fields changed."""
    return {"original_sha256": "1", "patched_sha256": "2", "patches": ["a"], "link": None, "bytecode": [], **fields}


def document(**fields: object) -> str:
    """A ledger with these fields changed."""
    whole = {"schema": 2, "nfpatch": "1", "neuralforecast": "1.7.4", "record_sha256": None, "files": {TFT: entry()}}
    return json.dumps({**whole, **fields})


DAMAGED = {
    "no JSON": "{",
    "no document": "[1, 2]",
    "no schema": "{}",
    "no files": document(files=None),
    "a file that is no entry": document(files={TFT: "patched"}),
    "an entry without a hash": document(files={TFT: {"patches": ["a"], "link": None, "bytecode": []}}),
    "a file without a name": document(files={"": entry()}),
    "a file of another package": document(files={"torch/__init__.py": entry()}),
    "a file by its way from the root": document(files={"/neuralforecast/core.py": entry()}),
    "a file outside": document(files={"neuralforecast/../torch/__init__.py": entry()}),
    "compiled files beside the file": document(files={TFT: entry(bytecode=[COMPILED, f"{TFT}c"])}),
    "compiled files of another folder": document(files={INIT: entry(bytecode=[COMPILED])}),
    "patches that are text": document(files={TFT: entry(patches="tft")}),
    "a patch that is a number": document(files={TFT: entry(patches=["tft", 1])}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_ledger_that_nfpatch_cannot_have_written_is_refused_with_what_to_do(content: str, install: Install) -> None:
    keep(install, content)
    assert refusal(install) == (
        f"{ledger_path(install)} is damaged, so nfpatch no longer knows what it changed. Reinstall neuralforecast to "
        "get the released files: `pip install --force-reinstall --no-deps neuralforecast==1.7.4`."
    )


@pytest.mark.parametrize(
    ("damaged", "cause"),
    [
        ("a file of another package", "torch/__init__.py is no file of the package"),
        ("compiled files of another folder", f"('{COMPILED}',) are no compiled files of {INIT}"),
        ("a patch that is a number", "['tft', 1] are no ids of patches"),
    ],
)
def test_a_refused_ledger_tells_developers_which_entry_it_was(damaged: str, cause: str, install: Install) -> None:
    keep(install, DAMAGED[damaged])
    with pytest.raises(Refused) as refused:
        read_ledger(install)
    assert str(refused.value.__cause__) == cause


def test_the_undamaged_ledger_of_these_tests_is_read(install: Install) -> None:
    keep(install, document())
    assert read_ledger(install) == Ledger("1.7.4", {TFT: PatchedFile("1", "2", ("a",))})


def test_a_kept_original_is_given_back_as_it_was(install: Install) -> None:
    keep_original(install, b"original\n")
    assert read_original(install, TFT, hash_of(b"original\n")) == b"original\n"


@pytest.mark.parametrize(("kept", "what"), [(None, "is gone"), (b"altered\n", "is not what nfpatch kept there")])
def test_an_original_that_is_lost_is_refused_with_what_to_do(
    kept: Optional[bytes], what: str, install: Install
) -> None:
    if kept is not None:
        keep_original(install, kept)
    with pytest.raises(Refused) as refused:
        read_original(install, TFT, hash_of(b"original\n"))
    assert str(refused.value) == (
        f"The original {original_path(install, TFT)} {what}, so nfpatch cannot restore it. Reinstall neuralforecast to "
        "get the released file: `pip install --force-reinstall --no-deps neuralforecast==1.7.4`."
    )


def keep_original(install: Install, content: bytes) -> None:
    path = original_path(install, TFT)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_hashes_are_sha256_in_hex() -> None:
    assert hash_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
