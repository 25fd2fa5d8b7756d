"""Which variant of a patch fits a source that is not a release, and which patches fit together."""

from __future__ import annotations

import json
from pathlib import Path

import fingerprints
import pytest
from fake_install import (
    BIAS,
    CORE,
    GATE,
    NET,
    RELEASE,
    RELEASED,
    STEP,
    UNKNOWN_RELEASE,
    make_install,
    patch_of,
    patched,
)

from nfpatch.catalog import ALREADY_FIXED, Catalog, Patch
from nfpatch.codemod import Change, Rewrite
from nfpatch.errors import RefusedError
from nfpatch.fingerprints import Fingerprints
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.operations import PartlyRefused, apply, revert
from nfpatch.patching.plan import plan_partial

INIT, FIT = "Net.__init__", "Core.fit"
EDIT = b"# an edit\n"


def net(*changes: tuple[str, str], where: str = INIT) -> dict[str, Rewrite]:
    """A variant with these changes in one function."""
    return {NET: Rewrite(tuple(Change(where, old, new) for old, new in changes))}


BIAS_ONLY, GATE_ONLY = (("self.bias = 1", "self.bias = 0"), ("self.gate = 1", "self.gate = 0"))
ABSENT = ("self.depth = 1", "self.depth = 0")


def catalog_of(*patches: Patch) -> Catalog:
    with pytest.MonkeyPatch.context() as made:
        made.setattr(fingerprints, "RELEASES", (RELEASE,))
        made.setattr(fingerprints, "read_member", lambda release, file: RELEASED[file])
        record = fingerprints.fingerprints_of(Catalog(patches, Fingerprints((), {}, {})))
    return Catalog(tuple(sorted(patches)), record)


def inspect(tmp_path: Path, patch: Patch, version: str = RELEASE, **files: bytes) -> InstallState:
    """The state of an install with a catalog of this patch and with these contents of `net` and `core`."""
    install = make_install(tmp_path / "site", version)
    for name, content in files.items():
        install.file({"net": NET, "core": CORE}[name]).write_bytes(content)
    return inspect_install(install, catalog_of(patch))


def edited(file: str, *replaced: tuple[str, str]) -> bytes:
    """The released file with an edit, and with these replacements."""
    content = RELEASED[file]
    for old, new in replaced:
        assert content.count(old.encode()) == 1
        content = content.replace(old.encode(), new.encode())
    return content + EDIT


# --- which variant


def test_the_variant_of_the_release_is_preferred_if_it_fits(tmp_path: Path) -> None:
    both = patch_of("patch", {"==1.0": net(BIAS_ONLY), ">1.0": net(BIAS_ONLY, GATE_ONLY)})
    found = inspect(tmp_path, both, net=edited(NET))
    (patch,) = found.catalog.patches
    assert found.variant_of(patch).rewrites is both.variants["==1.0"]
    status = found.status_of(patch)
    assert (status.state, status.variant_of) == ("modified", "1.0")
    assert "1.0" in status.reason


@pytest.mark.parametrize("version", [RELEASE, UNKNOWN_RELEASE])
def test_if_that_does_not_fit_the_variant_whose_edits_contain_the_others_is_used(version: str, tmp_path: Path) -> None:
    more = net(BIAS_ONLY, GATE_ONLY)
    patch = patch_of("patch", {f"=={version}": net(ABSENT), "<1.0": net(BIAS_ONLY), "==1.1": more, "==1.2": more})
    install = make_install(tmp_path / "site", version)
    install.file(NET).write_bytes(edited(NET))
    found = inspect_install(install, Catalog((patch,), catalog_of(GATE).fingerprints))
    assert found.variant_of(patch).rewrites is more
    status = found.status_of(patch)
    assert (status.state, status.variant_of) == ("modified", "==1.1")


def test_several_fitting_variants_with_different_edits_are_refused(tmp_path: Path) -> None:
    patch = patch_of("patch", {"<1.0": net(BIAS_ONLY), ">1.0": net(GATE_ONLY)}, "==1.0")
    found = inspect(tmp_path, patch, net=edited(NET))
    status = found.status_of(patch)
    assert status.state == "modified"
    with pytest.raises(RefusedError, match=r"<1\.0, >1\.0"):
        apply(found.install, found.catalog, [patch], allow_modified=True)


def test_a_variant_fits_only_with_all_of_its_files(tmp_path: Path) -> None:
    found = inspect(tmp_path, GATE, net=edited(NET), core=edited(CORE, ("self.gate = 1", "self.gate = 3")))
    status = found.status_of(GATE)
    assert status.state == "modified"
    assert status.variant_of == ""
    assert "self.gate = 1" in status.reason
    assert CORE in status.reason


def test_a_patch_is_needed_if_its_code_is_there_whatever_the_release(tmp_path: Path) -> None:
    patch = patch_of("patch", {">1.0": net(ABSENT)}, "<=1.0")
    assert inspect(tmp_path / "as released", patch).status_of(patch).state == "not-needed"
    found = inspect(tmp_path / "edited", patch, net=edited(NET))
    assert (found.status_of(patch).state, found.status_of(patch).reason) == ("not-needed", "fixed upstream")
    found = inspect(tmp_path / "with its code", patch, net=edited(NET, ("self.size = 2", "self.depth = 1")))
    assert (found.status_of(patch).state, found.status_of(patch).variant_of) == ("modified", ">1.0")


@pytest.mark.parametrize(
    ("unaffected", "state"),
    [("!=1.0", "unknown-release"), ("", "not-needed")],
    ids=["the next needs it", "none needs it"],
)
def test_a_patch_is_not_needed_between_two_releases_that_do_not_need_it(
    unaffected: str, state: str, tmp_path: Path
) -> None:
    specifier = "==1.0" if unaffected else ">2.0"
    patch = patch_of("patch", {specifier: net(BIAS_ONLY)}, unaffected or "<=2.0")
    found = inspect(tmp_path, patch, "0.9", net=edited(NET, ("self.bias = 1", "self.bias = 3")))
    assert found.status_of(patch).state == state


# --- code that is fixed


def test_a_source_with_the_fixed_code_needs_no_patch(tmp_path: Path) -> None:
    for version in (RELEASE, UNKNOWN_RELEASE):
        found = inspect(tmp_path / version, BIAS, version, net=edited(NET, BIAS_ONLY))
        status = found.status_of(BIAS)
        assert (status.state, status.reason) == ("not-needed", ALREADY_FIXED)


def test_upstreams_fix_is_recognized_even_if_the_old_code_is_there_too(tmp_path: Path) -> None:
    form = {NET: Rewrite((Change(INIT, old="self.depth = 1"),))}
    patch = BIAS._replace(unaffected_code={ALREADY_FIXED: form})
    assert inspect(tmp_path / "released", patch).status_of(patch).state == "applicable"
    assert inspect(tmp_path / "edited", patch, net=edited(NET)).status_of(patch).state == "modified"
    found = inspect(tmp_path / "fixed", patch, net=edited(NET, ("self.size = 2", "self.depth = 1")))
    assert (found.status_of(patch).state, found.status_of(patch).reason) == ("not-needed", ALREADY_FIXED)


def test_a_missing_model_needs_no_patch(tmp_path: Path) -> None:
    found = inspect(tmp_path, BIAS, UNKNOWN_RELEASE)
    found.install.file(NET).unlink()
    assert inspect_install(found.install, found.catalog).status_of(BIAS).state == "not-needed"


def test_upstream_code_equal_to_a_patch_is_not_an_applied_patch(tmp_path: Path) -> None:
    found = inspect(tmp_path, BIAS, net=patched(NET, "bias"))
    assert found.status_of(BIAS).state == "applied"
    assert found.install.dist_info is not None
    origin = {"url": "https://example.com/x", "vcs_info": {"vcs": "git", "commit_id": "1" * 40}}
    (found.install.dist_info / "direct_url.json").write_text(json.dumps(origin))
    now = inspect_install(found.install, found.catalog)
    assert (now.status_of(BIAS).state, now.status_of(BIAS).reason) == ("not-needed", ALREADY_FIXED)
    assert revert(now.install, now.catalog, ()).changed == ()


# --- patches that fit together


@pytest.fixture
def git_like(install: Install, catalog: Catalog) -> InstallState:
    """An install with one edited file, and one that lacks the code that two patches expect."""
    install.file(NET).write_bytes(edited(NET))
    install.file(CORE).write_bytes(edited(CORE, ("self.gate = 1", "self.gate = 3")))
    return inspect_install(install, catalog)


def test_each_patch_fits_independently_and_is_applied_as_a_whole(git_like: InstallState) -> None:
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


def test_patches_that_require_an_unfitting_patch_are_left_out(git_like: InstallState) -> None:
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


def test_without_keep_going_nothing_is_applied_and_the_error_lists_what_would_fit(git_like: InstallState) -> None:
    for options in ({}, {"allow_modified": True}):
        with pytest.raises(PartlyRefused) as refused:
            apply(git_like.install, git_like.catalog, (BIAS, GATE), **options)
        assert refused.value.plan.patches == (BIAS,)
        assert refused.value.plan.left_out.keys() == {"gate"}
    assert inspect_install(git_like.install, git_like.catalog).contents == git_like.contents


def test_keep_going_does_not_allow_modified_files(git_like: InstallState) -> None:
    outcome = apply(git_like.install, git_like.catalog, (BIAS, GATE), keep_going=True)
    assert outcome.changed == ()
    assert outcome.left_out.keys() == {"bias", "gate"}


def test_a_later_patch_of_a_file_keeps_the_variants_of_the_earlier(git_like: InstallState) -> None:
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
