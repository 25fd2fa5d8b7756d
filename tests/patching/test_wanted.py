"""Which patches each file is to have, by the command and the state of the install."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_install import (
    BIAS,
    CORE,
    GATE,
    LEDGER,
    NET,
    OLDER,
    RELEASED,
    STEP,
    UNKNOWN_RELEASE,
    apply_sets,
    make_install,
    patched,
)

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import RefusedError
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import plan_apply, plan_revert

Wanted = dict[str, frozenset[str]]


def files(**patches: str) -> Wanted:
    """The set of patches of each file, by `net` and `core`."""
    names = {"net": NET, "core": CORE}
    return {names[name]: frozenset(words.split()) for name, words in patches.items()}


def refusal_of_apply(found: InstallState, *patches: Patch, **options: bool) -> str:
    with pytest.raises(RefusedError) as refused:
        plan_apply(found, patches, **options)
    return str(refused.value)


def without(found: InstallState, file: str, statement: str) -> InstallState:
    """The install after a statement of a file was rewritten."""
    path = found.install.file(file)
    path.write_bytes(path.read_bytes().replace(statement.encode(), b"self.other = 3"))
    return inspect_install(found.install, found.catalog)


@pytest.fixture
def unknown(tmp_path: Path, catalog: Catalog) -> InstallState:
    """An install of an unknown release."""
    return inspect_install(make_install(tmp_path / "unknown", UNKNOWN_RELEASE), catalog)


# --- apply ---


@pytest.mark.parametrize(
    ("carried", "patches", "wanted"),
    [
        ({}, (BIAS,), files(net="bias")),
        ({}, (BIAS, GATE), files(net="bias gate", core="gate")),
        ({}, (OLDER, BIAS), files(net="bias")),
        ({}, (OLDER,), {}),
        ({}, (STEP,), files(core="step")),
        (files(net="bias"), (BIAS, GATE), files(net="bias gate", core="gate")),
        (files(net="gate", core="gate"), (GATE, STEP), files(core="gate step")),
        (files(net="gate"), (GATE,), files(net="gate", core="gate")),
        (files(net="bias"), (BIAS,), {}),
    ],
    ids=[
        *("one", "two in the same file", "a needed and an unneeded one", "an unneeded one"),
        *("opt-in", "one more", "opt-in and an applied one", "half of one", "an applied one"),
    ],
)
def test_apply_adds_needed_patches_to_those_of_a_file(
    carried: Wanted, patches: tuple[Patch, ...], wanted: Wanted, found: InstallState
) -> None:
    assert plan_apply(apply_sets(found, carried), patches) == wanted


def test_apply_to_a_modified_file_needs_allow_modified(found: InstallState) -> None:
    path = found.install.file(NET)
    path.write_bytes(RELEASED[NET] + b"# an edit\n")
    now = inspect_install(found.install, found.catalog)
    message = refusal_of_apply(now, BIAS)
    assert str(path) in message
    assert "--allow-modified" in message
    assert plan_apply(now, (BIAS,), allow_modified=True) == files(net="bias")


def test_plan_apply_does_not_refuse_files_edited_after_apply(found: InstallState) -> None:
    found = apply_sets(found, files(net="bias"))
    found.install.file(NET).write_bytes(b"edited")
    assert plan_apply(inspect_install(found.install, found.catalog), (BIAS,)) == files(net="bias")


def test_a_file_that_was_patched_elsewhere_counts_as_applied(found: InstallState) -> None:
    found.install.file(CORE).write_bytes(patched(CORE, "gate"))
    assert plan_apply(inspect_install(found.install, found.catalog), (GATE,)) == files(net="gate", core="gate")


@pytest.mark.parametrize("patches", [(GATE,), (BIAS,), (BIAS, GATE)], ids=["claimed", "not claimed", "both"])
def test_in_an_unknown_release_fitting_patches_need_allow_modified(
    patches: tuple[Patch, ...], unknown: InstallState
) -> None:
    message = refusal_of_apply(unknown, *patches)
    assert f"neuralforecast {UNKNOWN_RELEASE}" in message
    assert "--allow-modified --prove" in message
    expected = {"net": " ".join(patch.id for patch in patches), **({"core": "gate"} if GATE in patches else {})}
    assert plan_apply(unknown, patches, allow_modified=True) == files(**expected)


def test_in_an_unknown_release_patches_that_neither_fit_nor_claim_it_are_left_out(unknown: InstallState) -> None:
    now = without(unknown, NET, "self.bias = 1")
    assert now.status_of(BIAS).state == "unknown-release"
    assert "self.bias = 1" in refusal_of_apply(now, BIAS, allow_modified=True)
    assert plan_apply(now, (BIAS, GATE), allow_modified=True) == files(net="gate", core="gate")


def test_a_patch_that_claims_an_unknown_release_but_does_not_fit_is_refused(unknown: InstallState) -> None:
    now = without(unknown, CORE, "self.gate = 1")
    assert now.status_of(GATE).state == "unknown-release"
    assert "self.gate = 1" in refusal_of_apply(now, BIAS, GATE, allow_modified=True)


# --- revert ---


@pytest.mark.parametrize(
    ("patches", "wanted"),
    [
        ((), files(net="", core="")),
        ((BIAS,), files(net="gate")),
        ((GATE,), files(net="bias", core="")),
        ((BIAS, GATE), files(net="", core="")),
        ((STEP,), {}),
    ],
    ids=["all", "one", "one of two files", "every one", "one that is not applied"],
)
def test_revert_keeps_patches_that_are_not_named(
    patches: tuple[Patch, ...], wanted: Wanted, found: InstallState
) -> None:
    assert plan_revert(apply_sets(found, files(net="bias gate", core="gate")), patches) == wanted


@pytest.mark.parametrize("patches", [(), (GATE, STEP)], ids=["all", "by name"])
def test_a_patch_without_a_kept_original_cannot_be_reverted(patches: tuple[Patch, ...], found: InstallState) -> None:
    found.install.file(CORE).write_bytes(patched(CORE, "gate", "step"))
    now = inspect_install(found.install, found.catalog)
    with pytest.raises(RefusedError) as refused:
        plan_revert(now, patches)
    for part in (found.install.file(CORE), "gate", "pip install --force-reinstall --no-deps neuralforecast==1.0"):
        assert str(part) in str(refused.value)
    assert plan_revert(now, (BIAS,)) == {}


# --- an invalid ledger ---


@pytest.mark.parametrize("wanted_by", [plan_apply, plan_revert])
def test_an_invalid_ledger_blocks_both(
    wanted_by: Callable[[InstallState, Sequence[Patch]], Wanted], found: InstallState
) -> None:
    ledger = apply_sets(found, files(net="bias")).install.file(LEDGER)
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "neuralforecast": "0.9"}))
    now = inspect_install(found.install, found.catalog)
    with pytest.raises(RefusedError) as refused:
        wanted_by(now, (BIAS,))
    assert str(refused.value) == now.ledger_problem
    assert str(ledger) in str(refused.value)
