"""Which patches names and `--skip` select, and which of them a command changes in an install."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_install import BIAS, CORE, GATE, NET, OLDER, OWN, RELEASED, STEP, apply_sets, patched

from nfpatch.catalog import GROUPS, Catalog, Patch, load_catalog
from nfpatch.errors import UsageError
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.selection import choice_for_apply, choice_for_revert, unmet


def with_patches(catalog: Catalog, *patches: Patch) -> Catalog:
    return catalog._replace(patches=tuple(sorted(patches)))


@pytest.fixture
def grouped(catalog: Catalog) -> Catalog:
    """bias, which gate requires; gate, in a group that is not applied by default; step, which is opt-in."""
    gate = GATE._replace(group="spark", requires=("bias",))
    return with_patches(catalog, BIAS, gate, OLDER, OWN._replace(group="ours"), STEP._replace(group="search"))


def ids(patches: tuple[Patch, ...]) -> list[str]:
    return [patch.id for patch in patches]


def on(found: InstallState, catalog: Catalog) -> InstallState:
    return inspect_install(found.install, catalog)


# --- names


@pytest.mark.parametrize(
    ("names", "selected", "named"),
    [
        ((), ["bias", "gate", "older", "own", "step"], set()),
        (("bias",), ["bias"], {"bias"}),
        (("unused-parameters",), ["bias", "older"], set()),
        (("unused-parameters", "step", "bias"), ["bias", "older", "step"], {"bias", "step"}),
        (("search",), ["step"], set()),
        (("ours",), ["own"], set()),
        (("all",), ["bias", "gate", "older", "step"], set()),
    ],
)
def test_a_name_is_a_patch_or_a_group(
    names: tuple[str, ...], selected: list[str], named: set[str], grouped: Catalog
) -> None:
    selection = grouped.selection(names)
    assert ids(selection.patches) == selected
    assert selection.ids == named
    assert selection.is_default == (not names)
    assert selection.skipped == {}


@pytest.mark.parametrize(("name", "near"), [("serach", "search"), ("gaet", "gate"), ("al", "all")])
def test_an_unknown_name_is_a_usage_error_that_suggests_the_nearest(name: str, near: str, grouped: Catalog) -> None:
    for select in (grouped.select, grouped.selection, lambda names: grouped.selection((), names)):
        with pytest.raises(UsageError, match=f"{name!r}.* {near}\\?"):
            select([name])


def test_spark_is_selected_only_by_its_own_name(grouped: Catalog) -> None:
    assert ids(grouped.group("spark")) == ["gate"]
    assert ids(grouped.group("all")) == ["bias", "gate", "older", "step"]
    with pytest.raises(UsageError, match="'bias'"):
        grouped.group("bias")


# --- skip


@pytest.mark.parametrize(
    ("names", "skip", "selected", "skipped"),
    [
        ((), ("gate",), ["bias", "older", "own", "step"], {"gate"}),
        ((), ("bias",), ["older", "own", "step"], {"bias", "gate"}),
        ((), ("unused-parameters",), ["own", "step"], {"bias", "older", "gate"}),
        (("all",), ("search", "gate"), ["bias", "older"], {"gate", "step"}),
        (("unused-parameters",), ("older",), ["bias"], {"older"}),
    ],
)
def test_skip_leaves_out_the_named_patches_and_those_that_require_them(
    names: tuple[str, ...], skip: tuple[str, ...], selected: list[str], skipped: set[str], grouped: Catalog
) -> None:
    selection = grouped.selection(names, skip)
    assert ids(selection.patches) == selected
    assert set(selection.skipped) == skipped
    for patch_id, reason in selection.skipped.items():
        assert ("requires bias" if patch_id == "gate" and "gate" not in skip else "--skip") in reason


@pytest.mark.parametrize(
    ("names", "skip"),
    [(("bias",), "bias"), (("bias",), "unused-parameters"), (("gate",), "bias"), (("search",), "bias")],
    ids=["itself", "its group", "what it requires", "what is not selected"],
)
def test_skip_of_what_was_named_or_is_not_selected_is_a_usage_error(
    names: tuple[str, ...], skip: str, grouped: Catalog
) -> None:
    with pytest.raises(UsageError, match=f"--skip {skip}"):
        grouped.selection(names, [skip])


# --- apply


@pytest.mark.parametrize(
    ("names", "skip", "chosen", "brought_along"),
    [
        ((), (), ["bias", "older"], []),
        ((), ("bias",), ["older"], []),
        (("gate",), (), ["bias", "gate"], ["bias"]),
        (("spark",), (), ["bias", "gate"], ["bias"]),
        (("all",), (), ["bias", "gate", "older"], []),
        (("search",), (), [], []),
        (("step",), (), ["step"], []),
        (("ours",), (), ["own"], []),
    ],
)
def test_apply_selects_the_default_groups_or_the_named_patches_with_their_requirements(
    names: tuple[str, ...],
    skip: tuple[str, ...],
    chosen: list[str],
    brought_along: list[str],
    found: InstallState,
    grouped: Catalog,
) -> None:
    choice = choice_for_apply(on(found, grouped), grouped.selection(names, skip))
    assert (ids(choice.patches), [*choice.brought_along], choice.renewed) == (chosen, brought_along, ())


def test_applied_and_unneeded_requirements_are_not_added(found: InstallState, grouped: Catalog) -> None:
    now = apply_sets(on(found, grouped), {NET: frozenset({"bias"})})
    assert choice_for_apply(now, grouped.selection(["gate"])).brought_along == {}
    requiring = with_patches(grouped, BIAS, GATE._replace(requires=("older",)), OLDER)
    assert choice_for_apply(on(found, requiring), requiring.selection(["gate"])).brought_along == {}


def test_an_opt_in_patch_is_added_if_a_named_patch_requires_it(found: InstallState, grouped: Catalog) -> None:
    requiring = with_patches(grouped, BIAS._replace(requires=("step",)), STEP)
    choice = choice_for_apply(on(found, requiring), requiring.selection())
    assert choice.brought_along == {"step": "bias requires it"}


# --- revert


@pytest.mark.parametrize(
    ("names", "chosen", "brought_along"),
    [
        (("gate",), ["gate"], []),
        (("bias",), ["bias", "gate"], ["gate"]),
        (("unused-parameters",), ["bias", "gate", "older"], ["gate"]),
        (("search",), ["step"], []),
    ],
)
def test_revert_also_reverts_applied_patches_that_require_the_named_one(
    names: tuple[str, ...], chosen: list[str], brought_along: list[str], found: InstallState, grouped: Catalog
) -> None:
    now = apply_sets(on(found, grouped), {NET: frozenset({"bias", "gate"}), CORE: frozenset({"gate", "step"})})
    choice = choice_for_revert(now, grouped.selection(names))
    assert (ids(choice.patches), [*choice.brought_along]) == (chosen, brought_along)


def test_revert_ignores_patches_that_are_not_applied(found: InstallState, grouped: Catalog) -> None:
    now = apply_sets(on(found, grouped), {NET: frozenset({"bias"})})
    assert ids(choice_for_revert(now, grouped.selection(["bias"])).patches) == ["bias"]


# --- status --check


def states_of_unmet(found: InstallState, *names: str, skip: tuple[str, ...] = ()) -> dict[str, str]:
    return {status.patch.id: status.state for status in unmet(found, found.catalog.selection(names, skip))}


def test_check_covers_default_groups_named_patches_and_applied_ones(found: InstallState, grouped: Catalog) -> None:
    now = on(found, grouped)
    assert states_of_unmet(now) == {"bias": "applicable"}
    assert states_of_unmet(now, "spark") == {"gate": "applicable"}
    assert states_of_unmet(now, "search") == {}
    assert states_of_unmet(now, "step") == {"step": "opt-in"}
    assert states_of_unmet(now, skip=("bias",)) == {}
    now = apply_sets(now, {NET: frozenset({"bias", "gate"}), CORE: frozenset({"gate", "step"})})
    assert states_of_unmet(now) == {}
    now.install.file(CORE).write_bytes(patched(CORE, "gate", "step") + b"# edited\n")
    assert states_of_unmet(on(now, grouped)) == {"gate": "modified", "step": "modified"}


def test_a_half_applied_opt_in_patch_is_not_opt_in(found: InstallState, grouped: Catalog) -> None:
    now = apply_sets(on(found, grouped), {CORE: frozenset({"step"})})
    now.install.file(CORE).write_bytes(RELEASED[CORE])
    assert states_of_unmet(on(now, grouped), skip=("bias",)) == {"step": "applicable"}


# --- invalid folders of patches

MODULE = """
from nfpatch.catalog import Patch

patch = Patch(
    id={id!r}, summary="a bug", group="ours", model="Net", upstream="", variants={{}}, unaffected={{"": "never"}},
    cases=(), requires={requires!r},
)
"""


@pytest.mark.parametrize(
    ("patch_id", "requires", "words"),
    [("search", (), "'search'"), ("all", (), "'all'"), ("ours", (), "'ours'"), ("mine", ("nothing",), "'nothing'")],
)
def test_a_patch_named_like_a_group_or_with_an_unknown_requirement_is_not_loaded(
    patch_id: str, requires: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    (tmp_path / "module.py").write_text(MODULE.format(id=patch_id, requires=requires))
    with pytest.raises(UsageError, match=words):
        load_catalog([tmp_path])


def test_groups_of_user_patches_come_after_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE.format(id="mine", requires=("tft-static-encoder",)))
    catalog = load_catalog([tmp_path])
    assert [*catalog.groups] == [*GROUPS, "ours"]
    assert "mine" not in ids(catalog.default)
    assert catalog.selection((), ["tft-static-encoder"]).skipped.keys() == {"mine", "tft-static-encoder"}
