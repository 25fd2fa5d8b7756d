"""The ledger is read back as it was written, and refused if nfpatch cannot have written it."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest
from support import TFT

from nfpatch import __version__
from nfpatch.errors import RefusedError
from nfpatch.installs.find import Install
from nfpatch.installs.ledger import (
    AppliedPatch,
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
REINSTALL = "pip install --force-reinstall --no-deps neuralforecast==1.7.4"
RANKS, SAVING = (f"neuralforecast/_nfpatch/{name}.py" for name in ("ranks", "saving"))
ONE, TWO, THREE, FOUR, FIVE = (str(number) * 64 for number in range(1, 6))
LEDGER = Ledger(
    version="1.7.4",
    files={
        TFT: PatchedFile(
            original_sha256=ONE,
            patched_sha256=TWO,
            patches={
                "tft-static-context": AppliedPatch(THREE, ("ranks", "saving")),
                "tft-static-encoder": AppliedPatch(FOUR),
            },
            bytecode=(COMPILED,),
        ),
        INIT: PatchedFile(THREE, FOUR, {"init": AppliedPatch(FIVE)}, link="../cache/init.py"),
    },
    added={SAVING: TWO, RANKS: ONE},
    record_sha256=FIVE,
)
WRITTEN = f"""{{
 "schema": 3,
 "nfpatch": "{__version__}",
 "neuralforecast": "1.7.4",
 "record_sha256": "{FIVE}",
 "added": {{
  "{RANKS}": "{ONE}",
  "{SAVING}": "{TWO}"
 }},
 "files": {{
  "{INIT}": {{
   "original_sha256": "{THREE}",
   "patched_sha256": "{FOUR}",
   "patches": {{
    "init": {{
     "edits_sha256": "{FIVE}",
     "modules": []
    }}
   }},
   "link": "../cache/init.py",
   "bytecode": []
  }},
  "{TFT}": {{
   "original_sha256": "{ONE}",
   "patched_sha256": "{TWO}",
   "patches": {{
    "tft-static-context": {{
     "edits_sha256": "{THREE}",
     "modules": [
      "ranks",
      "saving"
     ]
    }},
    "tft-static-encoder": {{
     "edits_sha256": "{FOUR}",
     "modules": []
    }}
   }},
   "link": null,
   "bytecode": [
    "{COMPILED}"
   ]
  }}
 }}
}}
"""


def keep(install: Install, content: str) -> None:
    """Write this as the ledger of the install."""
    install.home.mkdir()
    ledger_path(install).write_text(content)


def refusal(install: Install) -> str:
    """The message of the refusal to read the ledger."""
    with pytest.raises(RefusedError) as refused:
        read_ledger(install)
    return str(refused.value)


def test_nfpatch_keeps_its_files_in_one_folder_of_the_dist_info(install: Install) -> None:
    home = install.site_packages / "neuralforecast-1.7.4.dist-info" / "nfpatch"
    assert ledger_path(install) == home / "ledger.json"
    assert original_path(install, TFT) == home / "originals" / "neuralforecast" / "models" / "tft.py.orig"


def test_originals_are_kept_in_that_folder_under_any_name(install: Install) -> None:
    assert original_path(install, "/etc/hostname") == install.home / "originals" / "etc" / "hostname.orig"


def test_a_ledger_is_written_sorted_and_read_back_unchanged(install: Install) -> None:
    assert LEDGER.to_bytes().decode() == WRITTEN
    keep(install, WRITTEN)
    assert read_ledger(install) == LEDGER


def test_an_install_without_a_ledger_has_no_patches(install: Install) -> None:
    assert read_ledger(install) == Ledger("1.7.4")


def test_a_ledger_has_the_patches_of_each_file() -> None:
    assert LEDGER.patches_of(TFT) == {"tft-static-context", "tft-static-encoder"}
    assert LEDGER.patches_of("neuralforecast/core.py") == frozenset()
    assert LEDGER.patch_ids == {"init", "tft-static-context", "tft-static-encoder"}


def test_a_ledger_has_the_changed_and_added_files_of_each_patch() -> None:
    assert LEDGER.files_of("init") == {INIT: AppliedPatch(FIVE)}
    assert LEDGER.added_by("tft-static-context") == {RANKS, SAVING}
    assert LEDGER.added_by("init") == frozenset()
    assert LEDGER.files_of("unknown") == {}


@pytest.mark.parametrize(
    ("schema", "command"),
    [(2, REINSTALL), (4, "pip install --upgrade nfpatch")],
)
def test_a_ledger_of_another_schema_is_refused(schema: int, command: str, install: Install) -> None:
    text = WRITTEN.replace('"schema": 3', f'"schema": {schema}').replace(
        f'"nfpatch": "{__version__}"', '"nfpatch": "9"'
    )
    keep(install, text)
    for part in (ledger_path(install), "nfpatch 9", __version__, command):
        assert str(part) in refusal(install)


def test_the_version_of_nfpatch_in_a_ledger_is_for_information_only(install: Install) -> None:
    keep(install, WRITTEN.replace(f'"nfpatch": "{__version__}"', '"nfpatch": "0.0.1"'))
    assert read_ledger(install) == LEDGER


def test_a_ledger_of_another_release_is_refused(install: Install) -> None:
    keep(install, WRITTEN.replace('"neuralforecast": "1.7.4"', '"neuralforecast": "1.7.3"'))
    for part in (ledger_path(install), "1.7.3", REINSTALL):
        assert str(part) in refusal(install)


def patch(**fields: object) -> dict[str, Any]:
    """A ledger's entry of one patch in a file, with these fields changed."""
    return {"edits_sha256": THREE, "modules": ["ranks"], **fields}


def entry(**fields: object) -> dict[str, Any]:
    """A ledger's entry of one file, with these fields changed."""
    whole = {"original_sha256": ONE, "patched_sha256": TWO, "patches": {"a": patch()}, "link": None, "bytecode": []}
    return {**whole, **fields}


def document(**fields: object) -> str:
    """A ledger with these fields changed."""
    whole = {
        "schema": 3,
        "nfpatch": "1",
        "neuralforecast": "1.7.4",
        "record_sha256": None,
        "added": {RANKS: FOUR},
        "files": {TFT: entry()},
    }
    return json.dumps({**whole, **fields})


def with_modules(*modules: object, **added: object) -> str:
    """A ledger whose patch needs these modules, and which lists the others as added, by name."""
    paths = {f"neuralforecast/_nfpatch/{name}.py": sha256 for name, sha256 in added.items()}
    return document(files={TFT: entry(patches={"a": patch(modules=list(modules))})}, added=paths)


DAMAGED = {
    "no JSON": "{",
    "no document": "[1, 2]",
    "no schema": "{}",
    "a schema that is text": document(schema="3"),
    "no files": document(files=None),
    "a release that is a number": document(neuralforecast=1.7),
    "a hash of RECORD that is none": document(record_sha256="5"),
    "a file that is no entry": document(files={TFT: "patched"}),
    "an entry without a hash": document(files={TFT: {"patches": {"a": patch()}, "link": None, "bytecode": []}}),
    "a hash that is a number": document(files={TFT: entry(original_sha256=1)}),
    "a hash that is too short": document(files={TFT: entry(patched_sha256="2")}),
    "a link that is a number": document(files={TFT: entry(link=1)}),
    "a file without a name": document(files={"": entry()}),
    "a file of another package": document(files={"torch/__init__.py": entry()}),
    "a file with an absolute path": document(files={"/neuralforecast/core.py": entry()}),
    "a file outside": document(files={"neuralforecast/../torch/__init__.py": entry()}),
    "a patched runtime module": document(files={RANKS: entry()}),
    "compiled files beside the file": document(files={TFT: entry(bytecode=[COMPILED, f"{TFT}c"])}),
    "compiled files of another folder": document(files={INIT: entry(bytecode=[COMPILED])}),
    "a compiled file that is a number": document(files={TFT: entry(bytecode=[1])}),
    "patches that are text": document(files={TFT: entry(patches="tft")}),
    "patches that are a list": document(files={TFT: entry(patches=["a"])}),
    "a file without patches": document(files={TFT: entry(patches={})}, added={}),
    "a patch that is a digest": document(files={TFT: entry(patches={"a": THREE})}),
    "a patch without a digest": document(files={TFT: entry(patches={"a": {"modules": ["ranks"]}})}),
    "no added files": document(added=None),
    "added files that are a list": document(added=[RANKS]),
    "an added file without a hash": with_modules("ranks", ranks=None),
    "an added file that no patch needs": with_modules("ranks", ranks=ONE, saving=TWO),
    "a module that was not added": with_modules("ranks", "saving", ranks=ONE),
    "an added file outside": document(added={RANKS: ONE, "neuralforecast/_nfpatch/../core.py": ONE}),
    "an added file with an absolute path": document(added={RANKS: ONE, f"/{RANKS}": ONE}),
    "an added file elsewhere in the package": document(added={RANKS: ONE, "neuralforecast/core.py": ONE}),
    "an added file below the folder": document(added={RANKS: ONE, "neuralforecast/_nfpatch/a/b.py": ONE}),
    "a module with a parent folder in its name": with_modules("../core", **{"../core": ONE}),
    "a module with a folder in its name": with_modules("a/b", **{"a/b": ONE}),
    "a module that is a number": with_modules(1, **{"1": ONE}),
    "a module without a name": with_modules("", **{"": ONE}),
    "modules that are text": document(files={TFT: entry(patches={"a": patch(modules="ranks")})}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_ledger_that_nfpatch_cannot_have_written_is_refused(content: str, install: Install) -> None:
    keep(install, content)
    for part in (ledger_path(install), REINSTALL):
        assert str(part) in refusal(install)


@pytest.mark.parametrize(
    ("damaged", "entry_name"),
    [
        ("a file of another package", "torch/__init__.py"),
        ("compiled files of another folder", COMPILED),
        ("a patched runtime module", RANKS),
        ("a module with a parent folder in its name", "../core"),
        ("a module that was not added", SAVING),
        ("an added file that no patch needs", SAVING),
    ],
)
def test_the_traceback_of_a_refused_ledger_names_the_entry(damaged: str, entry_name: str, install: Install) -> None:
    keep(install, DAMAGED[damaged])
    with pytest.raises(RefusedError) as refused:
        read_ledger(install)
    assert entry_name in str(refused.value.__cause__)


def test_the_undamaged_ledger_of_these_tests_is_read(install: Install) -> None:
    keep(install, document())
    files = {TFT: PatchedFile(ONE, TWO, {"a": AppliedPatch(THREE, ("ranks",))})}
    assert read_ledger(install) == Ledger("1.7.4", files, {RANKS: FOUR})


def test_a_kept_original_is_read_back_unchanged(install: Install) -> None:
    keep_original(install, b"original\n")
    assert read_original(install, TFT, hash_of(b"original\n")) == b"original\n"


@pytest.mark.parametrize("kept", [None, b"altered\n"], ids=["missing", "altered"])
def test_a_lost_original_is_refused(kept: Optional[bytes], install: Install) -> None:
    if kept is not None:
        keep_original(install, kept)
    with pytest.raises(RefusedError) as refused:
        read_original(install, TFT, hash_of(b"original\n"))
    for part in (original_path(install, TFT), REINSTALL):
        assert str(part) in str(refused.value)


def keep_original(install: Install, content: bytes) -> None:
    path = original_path(install, TFT)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_hashes_are_sha256_in_hex() -> None:
    assert hash_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
