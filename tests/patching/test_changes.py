"""The new content of a file for a set of patches, and when a change is refused."""

from __future__ import annotations

import pytest
from fake_install import BIAS, CORE, NET, RELEASE, RELEASED, applied, apply_sets, facts_of, patch_of, patched

from nfpatch.catalog import Catalog
from nfpatch.codemod import Change, Rewrite
from nfpatch.errors import RefusedError
from nfpatch.fingerprints import Fingerprints, RecordedEdit, RecordedFile, RecordedPatch
from nfpatch.installs.ledger import hash_of
from nfpatch.patching.edits import digest_inserted_text
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import FileChange, changes_to, original_with
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile
from nfpatch.patching.steps import state_after

NONE, BOTH = frozenset[str](), frozenset({"bias", "gate"})
NET_SHA256 = hash_of(RELEASED[NET])
EDIT = b"# an edit\n"


def edited(found: InstallState) -> InstallState:
    """The install after the file was edited."""
    path = found.install.file(NET)
    path.write_bytes(path.read_bytes() + EDIT)
    return inspect_install(found.install, found.catalog)


def refusal_of(found: InstallState, *patches: str, **options: bool) -> str:
    """The message of the refusal to write these patches into NET."""
    with pytest.raises(RefusedError) as refused:
        changes_to(found, {NET: frozenset(patches)}, **options)
    return str(refused.value)


def check_names(message: str, *parts: object) -> None:
    """The message names each of these: a path, an id, an option."""
    for part in parts:
        assert str(part) in message


def test_a_patched_file_is_the_original_with_the_edits_of_its_patches(found: InstallState) -> None:
    assert changes_to(found, {NET: BOTH, CORE: frozenset({"gate"})}) == (
        FileChange(CORE, RELEASED[CORE], patched(CORE, "gate"), hash_of(RELEASED[CORE]), applied(CORE, ["gate"])),
        FileChange(NET, RELEASED[NET], patched(NET, "bias", "gate"), NET_SHA256, applied(NET, BOTH)),
    )


def test_a_file_that_already_has_the_patches_does_not_change(found: InstallState) -> None:
    wanted = {NET: BOTH, CORE: frozenset({"gate"})}
    assert changes_to(apply_sets(found, wanted), wanted) == ()


@pytest.mark.parametrize("patches", [("gate",), ()], ids=["one", "none"])
def test_after_a_revert_the_remaining_patches_are_applied_to_the_original(
    found: InstallState, patches: tuple[str, ...]
) -> None:
    change = FileChange(NET, patched(NET, "bias", "gate"), patched(NET, *patches), NET_SHA256, applied(NET, patches))
    assert changes_to(apply_sets(found, {NET: BOTH}), {NET: frozenset(patches)}) == (change,)


@pytest.mark.parametrize("patches", [("bias", "gate"), ()], ids=["apply", "revert"])
def test_a_restored_original_needs_no_force(found: InstallState, patches: tuple[str, ...]) -> None:
    apply_sets(found, {NET: BOTH})
    found.install.file(NET).write_bytes(RELEASED[NET])
    change = FileChange(NET, RELEASED[NET], patched(NET, *patches), NET_SHA256, applied(NET, patches))
    assert changes_to(inspect_install(found.install, found.catalog), {NET: frozenset(patches)}) == (change,)


def test_an_edited_patched_file_is_overwritten_only_with_force(found: InstallState) -> None:
    now = edited(apply_sets(found, {NET: BOTH}))
    check_names(refusal_of(now, "bias"), found.install.file(NET), "--force")
    assert changes_to(now, {NET: frozenset({"bias"})}, force=True) == (
        FileChange(
            NET,
            patched(NET, "bias", "gate") + EDIT,
            patched(NET, "bias"),
            NET_SHA256,
            applied(NET, ["bias"]),
            needs_backup=True,
        ),
    )


def test_a_removed_patched_file_is_restored_only_with_force(found: InstallState) -> None:
    apply_sets(found, {NET: BOTH})
    found.install.file(NET).unlink()
    now = inspect_install(found.install, found.catalog)
    check_names(refusal_of(now, "bias"), found.install.file(NET), "--force")
    assert changes_to(now, {NET: frozenset({"bias"})}, force=True) == (
        FileChange(NET, None, patched(NET, "bias"), NET_SHA256, applied(NET, ["bias"])),
    )


def test_a_missing_file_cannot_be_patched(found: InstallState) -> None:
    found.install.file(NET).unlink()
    message = refusal_of(inspect_install(found.install, found.catalog), "bias", allow_modified=True, force=True)
    check_names(message, found.install.file(NET), "`pip install --force-reinstall --no-deps neuralforecast==1.0`")


def test_a_modified_file_is_patched_only_with_allow_modified(found: InstallState) -> None:
    now, content = edited(found), RELEASED[NET] + EDIT
    check_names(refusal_of(now, "bias", force=True), found.install.file(NET), "--allow-modified")
    assert changes_to(now, {NET: BOTH}, allow_modified=True) == (
        FileChange(NET, content, patched(NET, "bias", "gate") + EDIT, hash_of(content), applied(NET, BOTH, content)),
    )


def test_a_result_without_a_fingerprint_is_written_only_with_allow_modified(
    found: InstallState,
) -> None:
    check_names(refusal_of(found, "bias", "own"), found.install.file(NET), "--allow-modified")
    now = apply_sets(found, {NET: frozenset({"own"})}, allow_modified=True)
    assert changes_to(now, {NET: frozenset({"bias", "own"})}) == (
        FileChange(NET, patched(NET, "own"), patched(NET, "bias", "own"), NET_SHA256, applied(NET, ["bias", "own"])),
    )


def with_record(found: InstallState, rewrite: Rewrite, sha256: str = "") -> tuple[InstallState, InstallState]:
    """The install with a catalog of one patch: without a fingerprint, and with one."""
    edits = edits_of(rewrite, SourceFile(RELEASED[NET]), fingerprinted=True)
    places = tuple(RecordedEdit(edit.start, edit.stop, len(edit.new), "", "") for edit in edits)
    patch = RecordedPatch(sha256 or digest_inserted_text(edits), (), places)
    recorded = RecordedFile((RELEASE,), NET_SHA256, "", 0, {"patch": patch})
    files = ({}, {NET: (recorded,)})
    catalogs = (Catalog((patch_of("patch", {"": {NET: rewrite}}),), Fingerprints((RELEASE,), f, {})) for f in files)
    own, fingerprinted = (inspect_install(found.install, catalog) for catalog in catalogs)
    return own, fingerprinted


def test_a_result_that_differs_from_its_fingerprint_is_never_written(found: InstallState) -> None:
    _, fingerprinted = with_record(found, BIAS.variants["==1.0"][NET], sha256="0" * 64)
    check_names(
        refusal_of(fingerprinted, "patch", allow_modified=True), found.install.file(NET), "fingerprint", "pip list"
    )


DEEP = "self.bias = " + "-" * 100 + "1"


@pytest.mark.parametrize(
    ("rewrite", "place"),
    [
        (
            Rewrite(
                (Change("Net.__init__", "self.bias = 1", "self.bias = 0"),), unused_arguments={"Net.forward": ("x",)}
            ),
            "line 9",
        ),
        (Rewrite((Change("Net.__init__", "self.bias = 1", DEEP),)), "nested"),
    ],
    ids=["unpatched code", "the result"],
)
def test_a_result_without_a_fingerprint_is_checked(found: InstallState, rewrite: Rewrite, place: str) -> None:
    own, fingerprinted = with_record(found, rewrite)
    check_names(refusal_of(own, "patch", allow_modified=True), found.install.file(NET), place)
    (change,) = changes_to(fingerprinted, {NET: frozenset({"patch"})})
    assert change.desired == RELEASED[NET].replace(b"self.bias = 1", str(rewrite.changes[0].new).encode())


def test_a_patch_that_the_catalog_lacks_is_not_dropped_silently(found: InstallState) -> None:
    message = refusal_of(found, "bias", "zeal", "alien", allow_modified=True)
    check_names(message, found.install.file(NET), "alien", "--patches")


def test_the_predicted_state_after_a_change_matches_the_inspected_one(found: InstallState) -> None:
    for wanted in ({NET: BOTH, CORE: frozenset({"gate"})}, {NET: frozenset({"gate"}), CORE: NONE}):
        after = state_after(found, changes_to(found, wanted))
        found = apply_sets(found, wanted)
        assert facts_of(found) == facts_of(after)


def test_originals_with_any_patches_are_computed_for_any_state(found: InstallState) -> None:
    now = edited(apply_sets(found, {NET: BOTH}))
    assert original_with(now, frozenset({"gate", "step"})) == {
        NET: patched(NET, "gate"),
        CORE: patched(CORE, "gate", "step"),
    }


def test_originals_of_a_modified_file_are_computed_only_with_allow_modified(found: InstallState) -> None:
    now = edited(found)
    with pytest.raises(RefusedError) as refused:
        original_with(now, frozenset({"bias"}))
    check_names(str(refused.value), found.install.file(NET), "--allow-modified")
    assert original_with(now, frozenset({"bias"}), allow_modified=True) == {NET: patched(NET, "bias") + EDIT}
