"""Which files are to carry which patches, by what a command names and what the install has."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_up import (
    BIAS,
    CORE,
    GATE,
    LEDGER,
    NET,
    OLDER,
    RELEASED,
    STEP,
    UNKNOWN_RELEASE,
    make_install,
    moved,
    patched,
)

from nfpatch.catalog import Catalog, Patch
from nfpatch.errors import Refused
from nfpatch.patching.plan import wanted_by_apply, wanted_by_revert
from nfpatch.patching.survey import Survey, survey

Wanted = dict[str, frozenset[str]]


def files(**patches: str) -> Wanted:
    """The set of patches of each file, by `net` and `core`."""
    names = {"net": NET, "core": CORE}
    return {names[name]: frozenset(words.split()) for name, words in patches.items()}


def refusal_of_apply(found: Survey, *patches: Patch, **options: bool) -> str:
    with pytest.raises(Refused) as refused:
        wanted_by_apply(found, patches, **options)
    return str(refused.value)


@pytest.fixture
def unknown(tmp_path: Path, catalog: Catalog) -> Survey:
    """An install of a release that is not on record."""
    return survey(make_install(tmp_path / "unknown", UNKNOWN_RELEASE), catalog)


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
        *("one", "two in the same file", "one that is needed beside one that is not", "none that is needed"),
        *("by name only", "one beside one that is there", "by name only beside another", "half of one", "all there"),
    ],
)
def test_apply_adds_what_is_needed_to_what_a_file_carries(
    carried: Wanted, patches: tuple[Patch, ...], wanted: Wanted, found: Survey
) -> None:
    assert wanted_by_apply(moved(found, carried), patches) == wanted


def test_apply_to_a_file_that_is_not_the_released_one_needs_consent(found: Survey) -> None:
    path = found.install.file(NET)
    path.write_bytes(RELEASED[NET] + b"# an edit\n")
    now = survey(found.install, found.catalog)
    assert refusal_of_apply(now, BIAS) == (
        f"{path} is not known as a file of neuralforecast 1.0: the file is neither the released one nor one that "
        "nfpatch wrote. Restore the released file, or let nfpatch patch it as it is if the code in question still "
        "matches exactly: `--allow-modified`."
    )
    assert wanted_by_apply(now, (BIAS,), allow_modified=True) == files(net="bias")


def test_what_was_changed_after_a_patch_is_judged_where_force_is_known(found: Survey) -> None:
    found = moved(found, files(net="bias"))
    found.install.file(NET).write_bytes(b"edited")
    assert wanted_by_apply(survey(found.install, found.catalog), (BIAS,)) == files(net="bias")


def test_a_file_that_was_patched_elsewhere_counts_as_applied(found: Survey) -> None:
    found.install.file(CORE).write_bytes(patched(CORE, "gate"))
    assert wanted_by_apply(survey(found.install, found.catalog), (GATE,)) == files(net="gate", core="gate")


UNKNOWN = (
    "neuralforecast 2.0 in {} is unknown: this nfpatch knows the releases up to 1.0, not 2.0. Upgrade nfpatch, or let "
    "it patch the release where a codemod matches exactly, and prove that first: `--allow-modified --prove`."
)


@pytest.mark.parametrize(
    ("patches", "allow_modified"),
    [((GATE,), False), ((BIAS,), False), ((OLDER, BIAS), False), ((BIAS,), True)],
    ids=["claimed", "not claimed", "beside one that is not needed", "not claimed, with consent"],
)
def test_an_unknown_release_is_refused_without_consent_and_where_nothing_claims_it(
    patches: tuple[Patch, ...], allow_modified: bool, unknown: Survey
) -> None:
    words = refusal_of_apply(unknown, *patches, allow_modified=allow_modified)
    assert words == UNKNOWN.format(unknown.install.site_packages)


def test_in_an_unknown_release_consent_leaves_out_what_does_not_claim_it(unknown: Survey) -> None:
    assert wanted_by_apply(unknown, (BIAS, GATE), allow_modified=True) == files(net="gate", core="gate")


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
    ids=["all", "one", "one of two files", "every one", "one that is not there"],
)
def test_revert_leaves_what_is_not_named(patches: tuple[Patch, ...], wanted: Wanted, found: Survey) -> None:
    assert wanted_by_revert(moved(found, files(net="bias gate", core="gate")), patches) == wanted


@pytest.mark.parametrize("patches", [(), (GATE, STEP)], ids=["all", "by name"])
def test_a_patch_whose_original_is_not_kept_cannot_be_reverted(patches: tuple[Patch, ...], found: Survey) -> None:
    found.install.file(CORE).write_bytes(patched(CORE, "gate", "step"))
    now = survey(found.install, found.catalog)
    with pytest.raises(Refused) as refused:
        wanted_by_revert(now, patches)
    assert str(refused.value) == (
        f"{found.install.file(CORE)} carries gate, but its original is not kept here (the ledger is gone, or the file "
        "was patched elsewhere). Reinstall neuralforecast to get the released file: "
        "`pip install --force-reinstall --no-deps neuralforecast==1.0`."
    )
    assert wanted_by_revert(now, (BIAS,)) == {}


# --- a ledger that cannot be trusted ---


@pytest.mark.parametrize("wanted_by", [wanted_by_apply, wanted_by_revert])
def test_a_ledger_that_cannot_be_trusted_stops_both(
    wanted_by: Callable[[Survey, Sequence[Patch]], Wanted], found: Survey
) -> None:
    ledger = moved(found, files(net="bias")).install.file(LEDGER)
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "neuralforecast": "0.9"}))
    now = survey(found.install, found.catalog)
    with pytest.raises(Refused) as refused:
        wanted_by(now, (BIAS,))
    assert str(refused.value) == now.ledger_problem
    assert str(ledger) in str(refused.value)
