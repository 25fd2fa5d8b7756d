"""The steps that carry out a change, all of them and in their order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_up import (
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
    kept,
    ledger_with,
    moved,
    patched,
    record_of,
    rows_with,
    told,
)

from nfpatch.catalog import Catalog
from nfpatch.errors import EnvironmentProblem
from nfpatch.installs.find import find_install
from nfpatch.installs.ledger import Ledger, PatchedFile, hash_of
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import changes_to
from nfpatch.patching.steps import backup_path

CACHE, STALE = "neuralforecast/models/__pycache__", "neuralforecast/models/__pycache__/net.cpython-312.pyc"
NONE, GATE, BOTH = (frozenset(patches) for patches in ((), ("gate",), ("bias", "gate")))
STRANGERS = {"neuralforecast/extra.py": b"somebody else's"}

Steps = list[tuple[object, ...]]


def steps_to(found: InstallState, wanted: dict[str, frozenset[str]], force: bool = False) -> Steps:
    return told(found, all_steps(found, changes_to(found, wanted, force=force)))


@pytest.fixture
def with_both(found: InstallState) -> InstallState:
    """The install after both patches went into NET, and it was compiled again, by a newer Python as well."""
    found = moved(found, {NET: BOTH})
    for name in (COMPILED, STALE):
        found.install.file(name).write_bytes(b"compiled again")
    return found


def bookkeeping(carried: dict[str, tuple[str, ...]]) -> Steps:
    """The steps for RECORD and ledger once these files carry these patches."""
    ledger = ledger_with(carried)
    return [("Write", RECORD, record_of(rows_with(carried, ledger)), None), ("Write", LEDGER, ledger, None)]


def test_apply_keeps_what_it_replaces_and_takes_away_what_was_compiled_of_it(found: InstallState) -> None:
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
def test_what_was_compiled_of_other_modules_stays(name: str, found: InstallState) -> None:
    before = steps_to(found, {NET: BOTH})
    (found.install.file(CACHE) / name).write_bytes(b"compiled")
    assert steps_to(found, {NET: BOTH}) == before


def test_another_set_of_patches_is_written_over_the_first_and_the_same_original_stays_kept(
    with_both: InstallState,
) -> None:
    assert steps_to(with_both, {NET: GATE}) == [
        ("Write", NET, patched(NET, "gate"), NET),
        ("Remove", COMPILED),
        ("Remove", STALE),
        *bookkeeping({NET: ("gate",)}),
    ]


def test_a_second_file_is_kept_beside_the_first(with_both: InstallState) -> None:
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


def test_revert_of_all_puts_every_original_back_and_forgets_everything(with_both: InstallState) -> None:
    assert steps_to(moved(with_both, {CORE: GATE}), {NET: NONE, CORE: NONE}) == [
        ("Move", CORE, kept(CORE)),
        *BACK,
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", "neuralforecast/__pycache__"),
        ("Prune", CACHE),
    ]


def test_revert_of_one_file_forgets_that_alone(with_both: InstallState) -> None:
    assert steps_to(moved(with_both, {CORE: GATE}), {NET: NONE}) == [
        *BACK,
        *bookkeeping({CORE: ("gate",)}),
        ("Prune", CACHE),
    ]


def test_an_original_that_came_back_by_itself_stays_as_it_is(found: InstallState) -> None:
    found = moved(found, {CORE: GATE})
    found.install.file(CORE).write_bytes(RELEASED[CORE])
    assert steps_to(inspect_install(found.install, found.catalog), {CORE: NONE}) == [
        ("Remove", kept(CORE)),
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", "neuralforecast/__pycache__"),
    ]


# --- symbolic links ---


def test_the_content_of_a_symbolic_link_is_kept_and_the_link_comes_back(found: InstallState) -> None:
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
    assert steps_to(moved(found, {CORE: GATE}), {CORE: NONE})[:2] == [("Link", CORE, "real.py"), ("Remove", kept(CORE))]


# --- copies of somebody's edits ---


@pytest.mark.parametrize("patches", [frozenset({"gate", "step"}), NONE], ids=["apply", "revert"])
def test_a_copy_of_somebodys_edits_is_put_beside_the_file_before_anything_else(
    patches: frozenset[str], found: InstallState
) -> None:
    found = moved(found, {CORE: GATE})
    unedited = steps_to(found, {CORE: patches})
    found.install.file(CORE).write_bytes(b"edited")
    saving = steps_to(inspect_install(found.install, found.catalog), {CORE: patches}, force=True)
    assert saving == [("LinkOrCopy", f"{CORE}.nfpatch-saved", CORE), *unedited]


def test_a_copy_gets_the_first_name_that_is_free(with_both: InstallState) -> None:
    path = with_both.install.file(NET)
    (change,) = changes_to(with_both, {NET: NONE})
    names = [path.with_name(f"net.py.nfpatch-saved{end}") for end in ("", "-2", "-3")]
    for name in names:
        assert backup_path(with_both.install, change) == name
        name.symlink_to("nowhere")


# --- RECORD ---


def record_with_strangers(carried: dict[str, tuple[str, ...]]) -> bytes:
    return record_of({**rows_with(carried, ledger_with(carried)), **STRANGERS})


def test_rows_that_somebody_else_wrote_into_record_stay(with_both: InstallState) -> None:
    before, after = ({NET: patches} for patches in (("bias", "gate"), ("gate",)))
    with_both.install.file(RECORD).write_bytes(record_with_strangers(before))
    assert steps_to(with_both, {NET: GATE})[-2:] == [
        ("Write", RECORD, record_with_strangers(after), None),
        ("Write", LEDGER, ledger_with(after), None),
    ]


def test_rows_that_somebody_else_wrote_into_record_stay_when_nfpatchs_own_go(with_both: InstallState) -> None:
    with_both.install.file(RECORD).write_bytes(record_with_strangers({NET: ("bias", "gate")}))
    released = {path: content for path, content in RELEASED_ROWS.items() if path != COMPILED}
    assert steps_to(with_both, {NET: NONE})[-4:] == [
        ("Write", RECORD, record_of({**released, **STRANGERS, COMPILED: None}), None),
        ("Remove", kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", CACHE),
    ]


@pytest.mark.parametrize("content", [b"edited", RELEASED[NET]], ids=["edited", "the original"])
def test_record_comes_back_whatever_somebody_put_in_the_place_of_a_patched_file(
    content: bytes, with_both: InstallState
) -> None:
    with_both.install.file(NET).write_bytes(content)
    assert steps_to(inspect_install(with_both.install, with_both.catalog), {NET: NONE}, force=True)[-3:] == [
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", CACHE),
    ]


def test_the_row_of_a_patched_file_that_somebody_removed_stays_as_it_is(with_both: InstallState) -> None:
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
def test_a_record_that_somebody_broke_meanwhile_is_named(
    carried: dict[str, frozenset[str]], found: InstallState
) -> None:
    found = moved(found, carried)
    path = found.install.file(RECORD)
    path.write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match=f"^{re.escape(str(path))} is empty"):
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
    assert steps_to(moved(found, {CORE: GATE}), {CORE: NONE}) == [
        ("Move", CORE, f".nfpatch/originals/{CORE}.orig"),
        ("Remove", ".nfpatch/ledger.json"),
        ("Prune", "neuralforecast/__pycache__"),
    ]
