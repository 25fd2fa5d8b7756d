"""The steps of a change, in their order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_install import (
    COMPILED,
    CORE,
    INIT,
    LEDGER,
    NET,
    OPTIMIZED,
    RECORD,
    RELEASED,
    RELEASED_ROWS,
    all_steps,
    applied,
    apply_sets,
    describe_steps,
    kept,
    ledger_with,
    patched,
    record_of,
    rows_with,
)

from nfpatch.catalog import Catalog
from nfpatch.errors import InstallEnvironmentError
from nfpatch.installs.find import find_install
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import changes_to
from nfpatch.patching.steps import backup_path

CACHE, STALE = "neuralforecast/models/__pycache__", "neuralforecast/models/__pycache__/net.cpython-312.pyc"
NONE, GATE, BOTH = (frozenset(patches) for patches in ((), ("gate",), ("bias", "gate")))
FOREIGN_ROWS = {"neuralforecast/extra.py": b"of another program"}

Steps = list[tuple[object, ...]]


def steps_to(found: InstallState, wanted: dict[str, frozenset[str]], force: bool = False) -> Steps:
    return describe_steps(found, all_steps(found, changes_to(found, wanted, force=force)))


@pytest.fixture
def with_both(found: InstallState) -> InstallState:
    """The install with both patches in NET, which was compiled again, also by a newer Python."""
    found = apply_sets(found, {NET: BOTH})
    for name in (COMPILED, STALE):
        found.install.file(name).write_bytes(b"compiled again")
    return found


def bookkeeping(carried: dict[str, tuple[str, ...]]) -> Steps:
    """The steps for RECORD and the ledger of an install with these patches."""
    ledger = ledger_with(carried)
    return [("Write", RECORD, record_of(rows_with(carried, ledger)), None), ("Write", LEDGER, ledger, None)]


def test_apply_keeps_the_original_and_removes_its_bytecode(found: InstallState) -> None:
    assert steps_to(found, {NET: BOTH, CORE: GATE}) == [
        ("LinkOrCopy", kept(CORE), CORE),
        ("Write", CORE, patched(CORE, "gate"), CORE),
        ("LinkOrCopy", kept(NET), NET),
        ("LinkOrCopy", kept(OPTIMIZED), OPTIMIZED),
        ("LinkOrCopy", kept(COMPILED), COMPILED),
        ("Write", NET, patched(NET, "bias", "gate"), NET),
        ("Remove", OPTIMIZED),
        ("Remove", COMPILED),
        ("LinkOrCopy", kept(RECORD), RECORD),
        *bookkeeping({CORE: ("gate",), NET: ("bias", "gate")}),
    ]


@pytest.mark.parametrize("name", ["nets.cpython-311.pyc", "net.cpyth\xf6n-311.pyc"])
def test_bytecode_of_other_modules_is_kept(name: str, found: InstallState) -> None:
    before = steps_to(found, {NET: BOTH})
    (found.install.file(CACHE) / name).write_bytes(b"compiled")
    assert steps_to(found, {NET: BOTH}) == before


def test_a_change_of_patches_keeps_the_same_original(
    with_both: InstallState,
) -> None:
    assert steps_to(with_both, {NET: GATE}) == [
        ("Write", NET, patched(NET, "gate"), NET),
        ("Remove", COMPILED),
        ("Remove", STALE),
        *bookkeeping({NET: ("gate",)}),
    ]


def test_originals_of_several_files_are_kept(with_both: InstallState) -> None:
    assert steps_to(with_both, {CORE: GATE}) == [
        ("LinkOrCopy", kept(CORE), CORE),
        ("Write", CORE, patched(CORE, "gate"), CORE),
        *bookkeeping({CORE: ("gate",), NET: ("bias", "gate")}),
    ]


BACK = [
    ("Move", NET, kept(NET)),
    ("Remove", STALE),
    ("Move", OPTIMIZED, kept(OPTIMIZED)),
    ("Move", COMPILED, kept(COMPILED)),
]


def test_revert_of_all_restores_every_original_and_removes_the_ledger(with_both: InstallState) -> None:
    assert steps_to(apply_sets(with_both, {CORE: GATE}), {NET: NONE, CORE: NONE}) == [
        ("Move", CORE, kept(CORE)),
        *BACK,
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", "neuralforecast/__pycache__"),
        ("Prune", CACHE),
    ]


def test_revert_of_one_file_removes_only_its_ledger_entry(with_both: InstallState) -> None:
    assert steps_to(apply_sets(with_both, {CORE: GATE}), {NET: NONE}) == [
        *BACK,
        *bookkeeping({CORE: ("gate",)}),
        ("Prune", CACHE),
    ]


def test_a_restored_original_is_not_rewritten(found: InstallState) -> None:
    found = apply_sets(found, {CORE: GATE})
    found.install.file(CORE).write_bytes(RELEASED[CORE])
    assert steps_to(inspect_install(found.install, found.catalog), {CORE: NONE}) == [
        ("Remove", kept(CORE)),
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", "neuralforecast/__pycache__"),
    ]


# --- symbolic links ---


def test_the_target_of_a_symbolic_link_is_kept_and_the_link_restored(found: InstallState) -> None:
    path = found.install.file(CORE)
    path.rename(path.with_name("real.py"))
    path.symlink_to("real.py")
    ledger = ledger_with({CORE: ("gate",)}, link="real.py")
    assert steps_to(found, {CORE: GATE}) == [
        ("Write", kept(CORE), RELEASED[CORE], CORE),
        ("Write", CORE, patched(CORE, "gate"), CORE),
        ("LinkOrCopy", kept(RECORD), RECORD),
        ("Write", RECORD, record_of(rows_with({CORE: ("gate",)}, ledger)), None),
        ("Write", LEDGER, ledger, None),
    ]
    assert steps_to(apply_sets(found, {CORE: GATE}), {CORE: NONE})[:2] == [
        ("Link", CORE, "real.py"),
        ("Remove", kept(CORE)),
    ]


# --- backups of edited files ---


@pytest.mark.parametrize("patches", [frozenset({"gate", "step"}), NONE], ids=["apply", "revert"])
def test_edits_are_backed_up_next_to_the_file_as_the_first_step(patches: frozenset[str], found: InstallState) -> None:
    found = apply_sets(found, {CORE: GATE})
    unedited = steps_to(found, {CORE: patches})
    found.install.file(CORE).write_bytes(b"edited")
    saving = steps_to(inspect_install(found.install, found.catalog), {CORE: patches}, force=True)
    assert saving == [("LinkOrCopy", f"{CORE}.nfpatch-saved", CORE), *unedited]


def test_a_backup_gets_the_first_free_name(with_both: InstallState) -> None:
    path = with_both.install.file(NET)
    (change,) = changes_to(with_both, {NET: NONE})
    names = [path.with_name(f"net.py.nfpatch-saved{end}") for end in ("", "-2", "-3")]
    for name in names:
        assert backup_path(with_both.install, change) == name
        name.symlink_to("nowhere")


# --- RECORD ---


def record_with_foreign_rows(carried: dict[str, tuple[str, ...]]) -> bytes:
    return record_of({**rows_with(carried, ledger_with(carried)), **FOREIGN_ROWS})


def test_foreign_rows_of_record_are_kept(with_both: InstallState) -> None:
    before, after = ({NET: patches} for patches in (("bias", "gate"), ("gate",)))
    with_both.install.file(RECORD).write_bytes(record_with_foreign_rows(before))
    assert steps_to(with_both, {NET: GATE})[-2:] == [
        ("Write", RECORD, record_with_foreign_rows(after), None),
        ("Write", LEDGER, ledger_with(after), None),
    ]


def test_foreign_rows_of_record_are_kept_when_nfpatchs_rows_are_removed(with_both: InstallState) -> None:
    with_both.install.file(RECORD).write_bytes(record_with_foreign_rows({NET: ("bias", "gate")}))
    released = {path: content for path, content in RELEASED_ROWS.items() if path != COMPILED}
    assert steps_to(with_both, {NET: NONE})[-4:] == [
        ("Write", RECORD, record_of({**released, **FOREIGN_ROWS, COMPILED: None}), None),
        ("Remove", kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", CACHE),
    ]


@pytest.mark.parametrize("content", [b"edited", RELEASED[NET]], ids=["edited", "the original"])
def test_record_is_restored_whatever_replaced_a_patched_file(content: bytes, with_both: InstallState) -> None:
    with_both.install.file(NET).write_bytes(content)
    assert steps_to(inspect_install(with_both.install, with_both.catalog), {NET: NONE}, force=True)[-3:] == [
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", CACHE),
    ]


def test_the_record_row_of_a_removed_patched_file_is_unchanged(with_both: InstallState) -> None:
    with_both.install.file(NET).unlink()
    steps = steps_to(inspect_install(with_both.install, with_both.catalog), {CORE: GATE})
    assert steps[-2:] == bookkeeping({CORE: ("gate",), NET: ("bias", "gate")})


def test_a_file_that_record_does_not_list_gets_no_row(found: InstallState) -> None:
    listed = {path: content for path, content in RELEASED_ROWS.items() if path != CORE}
    found.install.file(RECORD).write_bytes(record_of(listed))
    steps = steps_to(found, {CORE: GATE})
    (record,) = (content for kind, path, content, *_ in steps if (kind, path) == ("Write", RECORD))
    assert record.startswith(record_of(listed))
    assert f"\n{CORE},".encode() not in record


@pytest.mark.parametrize("carried", [{}, {NET: BOTH}], ids=["before the first patch", "after it"])
def test_a_damaged_record_is_an_error_that_names_it(carried: dict[str, frozenset[str]], found: InstallState) -> None:
    found = apply_sets(found, carried)
    path = found.install.file(RECORD)
    path.write_bytes(b"")
    with pytest.raises(InstallEnvironmentError, match=f"^{re.escape(str(path))}\\b"):
        steps_to(found, {NET: GATE})


def test_a_source_checkout_has_a_ledger_and_no_record(tmp_path: Path, catalog: Catalog) -> None:
    for name in (INIT, CORE):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(RELEASED[name])
    found = inspect_install(find_install(site_packages=tmp_path), catalog)
    entry = PatchedFile(hash_of(RELEASED[CORE]), hash_of(patched(CORE, "gate")), applied(CORE, ["gate"]))
    assert steps_to(found, {CORE: GATE}) == [
        ("LinkOrCopy", f".nfpatch/originals/{CORE}.orig", CORE),
        ("Write", CORE, patched(CORE, "gate"), CORE),
        ("Write", ".nfpatch/ledger.json", Ledger("1.0", {CORE: entry}).to_bytes(), None),
    ]
    assert steps_to(apply_sets(found, {CORE: GATE}), {CORE: NONE}) == [
        ("Move", CORE, f".nfpatch/originals/{CORE}.orig"),
        ("Remove", ".nfpatch/ledger.json"),
        ("Prune", "neuralforecast/__pycache__"),
    ]
