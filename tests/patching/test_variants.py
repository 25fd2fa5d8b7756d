"""Which variant of a patch fits a source that is not a released one, and which patches fit together."""

from __future__ import annotations

import json
from pathlib import Path

import fingerprints
import pytest
from made_up import BIAS, CORE, GATE, NET, RELEASE, RELEASED, STEP, UNKNOWN_RELEASE, make_install, patch_of, patched

from nfpatch.catalog import ALREADY_FIXED, Catalog, Patch
from nfpatch.codemod import Change, Rewrite
from nfpatch.errors import Refused
from nfpatch.fingerprints import Fingerprints
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.operations import PartlyRefused, apply, revert
from nfpatch.patching.plan import plan_partial

INIT, FIT = "Net.__init__", "Core.fit"
EDIT = b"# an edit\n"


def net(*changes: tuple[str, str], where: str = INIT) -> dict[str, Rewrite]:
    """A variant that makes these changes in one function."""
    return {NET: Rewrite(tuple(Change(where, old, new) for old, new in changes))}


BIAS_ALONE, GATE_ALONE = (("self.bias = 1", "self.bias = 0"), ("self.gate = 1", "self.gate = 0"))
ABSENT = ("self.depth = 1", "self.depth = 0")


def catalog_of(*patches: Patch) -> Catalog:
    with pytest.MonkeyPatch.context() as made:
        made.setattr(fingerprints, "RELEASES", (RELEASE,))
        made.setattr(fingerprints, "read_member", lambda release, file: RELEASED[file])
        record = fingerprints.fingerprints_of(Catalog(patches, Fingerprints((), {}, {})))
    return Catalog(tuple(sorted(patches)), record)


def look(tmp_path: Path, patch: Patch, version: str = RELEASE, **files: bytes) -> InstallState:
    """An install with this catalog of one patch, in which files are as given, by `net` and `core`."""
    install = make_install(tmp_path / "site", version)
    for name, content in files.items():
        install.file({"net": NET, "core": CORE}[name]).write_bytes(content)
    return inspect_install(install, catalog_of(patch))


def edited(file: str, *replaced: tuple[str, str]) -> bytes:
    """The released file with an edit of somebody's, and with these replacements."""
    content = RELEASED[file]
    for old, new in replaced:
        assert content.count(old.encode()) == 1
        content = content.replace(old.encode(), new.encode())
    return content + EDIT


# --- which variant


def test_the_variant_of_the_release_is_taken_where_it_fits_though_another_does_more(tmp_path: Path) -> None:
    both = patch_of("patch", {"==1.0": net(BIAS_ALONE), ">1.0": net(BIAS_ALONE, GATE_ALONE)})
    found = look(tmp_path, both, net=edited(NET))
    (patch,) = found.catalog.patches
    assert found.variant_of(patch).rewrites is both.variants["==1.0"]
    status = found.status_of(patch)
    assert (status.state, status.variant_of) == ("modified", "1.0")
    assert "1.0" in status.reason


@pytest.mark.parametrize("version", [RELEASE, UNKNOWN_RELEASE])
def test_where_it_does_not_fit_the_one_whose_edits_contain_the_others_is_taken(version: str, tmp_path: Path) -> None:
    more = net(BIAS_ALONE, GATE_ALONE)
    patch = patch_of("patch", {f"=={version}": net(ABSENT), "<1.0": net(BIAS_ALONE), "==1.1": more, "==1.2": more})
    install = make_install(tmp_path / "site", version)
    install.file(NET).write_bytes(edited(NET))
    found = inspect_install(install, Catalog((patch,), catalog_of(GATE).fingerprints))
    assert found.variant_of(patch).rewrites is more
    status = found.status_of(patch)
    assert (status.state, status.variant_of) == ("modified", "==1.1")


def test_variants_that_fit_and_differ_are_refused(tmp_path: Path) -> None:
    patch = patch_of("patch", {"<1.0": net(BIAS_ALONE), ">1.0": net(GATE_ALONE)}, "==1.0")
    found = look(tmp_path, patch, net=edited(NET))
    status = found.status_of(patch)
    assert status.state == "modified"
    with pytest.raises(Refused, match=r"<1\.0, >1\.0"):
        apply(found.install, found.catalog, [patch], allow_modified=True)


def test_a_variant_fits_only_with_all_of_its_files(tmp_path: Path) -> None:
    found = look(tmp_path, GATE, net=edited(NET), core=edited(CORE, ("self.gate = 1", "self.gate = 3")))
    status = found.status_of(GATE)
    assert status.state == "modified"
    assert status.variant_of == ""
    assert "self.gate = 1" in status.reason
    assert CORE in status.reason


def test_a_patch_that_the_release_does_not_need_is_needed_where_its_code_stands(tmp_path: Path) -> None:
    patch = patch_of("patch", {">1.0": net(ABSENT)}, "<=1.0")
    assert look(tmp_path / "as released", patch).status_of(patch).state == "not-needed"
    found = look(tmp_path / "edited", patch, net=edited(NET))
    assert (found.status_of(patch).state, found.status_of(patch).reason) == ("not-needed", "fixed upstream")
    found = look(tmp_path / "with its code", patch, net=edited(NET, ("self.size = 2", "self.depth = 1")))
    assert (found.status_of(patch).state, found.status_of(patch).variant_of) == ("modified", ">1.0")


@pytest.mark.parametrize(
    ("unaffected", "state"),
    [("!=1.0", "unknown-release"), ("", "not-needed")],
    ids=["the next needs it", "none needs it"],
)
def test_between_releases_of_which_none_needs_a_patch_it_is_not_needed(
    unaffected: str, state: str, tmp_path: Path
) -> None:
    specifier = "==1.0" if unaffected else ">2.0"
    patch = patch_of("patch", {specifier: net(BIAS_ALONE)}, unaffected or "<=2.0")
    found = look(tmp_path, patch, "0.9", net=edited(NET, ("self.bias = 1", "self.bias = 3")))
    assert found.status_of(patch).state == state


# --- what is fixed


def test_a_source_that_has_the_fixed_form_needs_no_patch(tmp_path: Path) -> None:
    for version in (RELEASE, UNKNOWN_RELEASE):
        found = look(tmp_path / version, BIAS, version, net=edited(NET, BIAS_ALONE))
        status = found.status_of(BIAS)
        assert (status.state, status.reason) == ("not-needed", ALREADY_FIXED)


def test_the_form_of_upstreams_own_fix_is_known_though_the_old_code_stands_there_too(tmp_path: Path) -> None:
    form = {NET: Rewrite((Change(INIT, old="self.depth = 1"),))}
    patch = BIAS._replace(unaffected_code={ALREADY_FIXED: form})
    assert look(tmp_path / "released", patch).status_of(patch).state == "applicable"
    assert look(tmp_path / "edited", patch, net=edited(NET)).status_of(patch).state == "modified"
    found = look(tmp_path / "fixed", patch, net=edited(NET, ("self.size = 2", "self.depth = 1")))
    assert (found.status_of(patch).state, found.status_of(patch).reason) == ("not-needed", ALREADY_FIXED)


def test_a_model_that_a_source_does_not_have_needs_no_patch(tmp_path: Path) -> None:
    found = look(tmp_path, BIAS, UNKNOWN_RELEASE)
    found.install.file(NET).unlink()
    assert inspect_install(found.install, found.catalog).status_of(BIAS).state == "not-needed"


def test_what_upstream_wrote_as_the_patch_does_is_not_taken_for_a_patch_in_a_commit(tmp_path: Path) -> None:
    found = look(tmp_path, BIAS, net=patched(NET, "bias"))
    assert found.status_of(BIAS).state == "applied"
    assert found.install.dist_info is not None
    origin = {"url": "https://example.com/x", "vcs_info": {"vcs": "git", "commit_id": "1" * 40}}
    (found.install.dist_info / "direct_url.json").write_text(json.dumps(origin))
    now = inspect_install(found.install, found.catalog)
    assert (now.status_of(BIAS).state, now.status_of(BIAS).reason) == ("not-needed", ALREADY_FIXED)
    assert revert(now.install, now.catalog, ()).changed == ()


# --- what fits together


@pytest.fixture
def git_like(install: Install, catalog: Catalog) -> InstallState:
    """An install in which one file has an edit, and another has not the code that two patches look for."""
    install.file(NET).write_bytes(edited(NET))
    install.file(CORE).write_bytes(edited(CORE, ("self.gate = 1", "self.gate = 3")))
    return inspect_install(install, catalog)


def test_each_patch_fits_for_itself_and_is_applied_as_a_whole(git_like: InstallState) -> None:
    fit = plan_partial(git_like, (BIAS, GATE, STEP), allow_modified=True)
    assert fit.patches == (BIAS, STEP)
    assert fit.left_out.keys() == {"gate"}
    assert "self.gate = 1" in fit.left_out["gate"]

    outcome = apply(git_like.install, git_like.catalog, (BIAS, GATE, STEP), allow_modified=True, keep_going=True)
    assert outcome.left_out.keys() == {"gate"}
    now = inspect_install(git_like.install, git_like.catalog)
    assert [now.status_of(patch).state for patch in (BIAS, GATE, STEP)] == ["applied", "modified", "applied"]
    assert now.contents[NET] == patched(NET, "bias") + EDIT
    revert(now.install, now.catalog, ())
    assert inspect_install(now.install, now.catalog).contents == git_like.contents


def test_what_requires_a_patch_that_does_not_fit_is_left_out_too(git_like: InstallState) -> None:
    requiring = BIAS._replace(requires=("gate",))
    patches = tuple(requiring if patch is BIAS else patch for patch in git_like.catalog.patches)
    found = inspect_install(git_like.install, Catalog(patches, git_like.catalog.fingerprints))
    fit = plan_partial(found, (requiring, GATE, STEP), allow_modified=True)
    assert fit.patches == (STEP,)
    assert "gate" in fit.left_out["bias"]


def test_of_two_patches_of_the_same_statement_the_first_is_applied(tmp_path: Path) -> None:
    twin = patch_of("twin", BIAS.variants)
    install = make_install(tmp_path / "site")
    install.file(NET).write_bytes(edited(NET))
    found = inspect_install(install, Catalog((BIAS, twin), catalog_of(BIAS).fingerprints))
    assert plan_partial(found, (BIAS, twin), allow_modified=True).patches == (BIAS,)


def test_without_it_nothing_is_applied_and_the_refusal_knows_what_would_be(git_like: InstallState) -> None:
    for options in ({}, {"allow_modified": True}):
        with pytest.raises(PartlyRefused) as refused:
            apply(git_like.install, git_like.catalog, (BIAS, GATE), **options)
        assert refused.value.plan.patches == (BIAS,)
        assert refused.value.plan.left_out.keys() == {"gate"}
    assert inspect_install(git_like.install, git_like.catalog).contents == git_like.contents


def test_keep_going_is_no_consent_to_files_that_are_modified(git_like: InstallState) -> None:
    outcome = apply(git_like.install, git_like.catalog, (BIAS, GATE), keep_going=True)
    assert outcome.changed == ()
    assert outcome.left_out.keys() == {"bias", "gate"}


def test_another_patch_of_a_file_is_written_by_the_same_variants(git_like: InstallState) -> None:
    install, catalog = git_like.install, git_like.catalog
    apply(install, catalog, (BIAS,), allow_modified=True)
    own = next(patch for patch in catalog.patches if patch.id == "own")
    apply(install, catalog, (own,), allow_modified=True)
    now = inspect_install(install, catalog)
    assert [now.status_of(patch).state for patch in (BIAS, own)] == ["applied", "applied"]
    assert "1.0" in now.status_of(BIAS).reason
    assert now.outdated == ()
    revert(install, catalog, (BIAS,))
    assert inspect_install(install, catalog).contents[NET] == patched(NET, "own") + EDIT
