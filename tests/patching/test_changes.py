"""What a file must become to carry a set of patches, and when that is refused."""

from __future__ import annotations

import pytest
from made_up import BIAS, CORE, NET, RELEASE, RELEASED, applied, facts_of, moved, patch_of, patched

from nfpatch.catalog import Catalog
from nfpatch.codemod import Change, Rewrite
from nfpatch.errors import Refused
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
    """The install after somebody has edited the file."""
    path = found.install.file(NET)
    path.write_bytes(path.read_bytes() + EDIT)
    return inspect_install(found.install, found.catalog)


def refusal_of(found: InstallState, *patches: str, **options: bool) -> str:
    """The words by which it is refused that the one file carries these patches."""
    with pytest.raises(Refused) as refused:
        changes_to(found, {NET: frozenset(patches)}, **options)
    return str(refused.value)


def check_says(message: str, *parts: object) -> None:
    """The message names each of these: a path, an id, an option."""
    for part in parts:
        assert str(part) in message


def test_a_file_becomes_its_original_with_the_edits_of_its_patches(found: InstallState) -> None:
    assert changes_to(found, {NET: BOTH, CORE: frozenset({"gate"})}) == (
        FileChange(CORE, RELEASED[CORE], patched(CORE, "gate"), hash_of(RELEASED[CORE]), applied(CORE, ["gate"])),
        FileChange(NET, RELEASED[NET], patched(NET, "bias", "gate"), NET_SHA256, applied(NET, BOTH)),
    )


def test_a_file_that_carries_the_patches_already_does_not_change(found: InstallState) -> None:
    wanted = {NET: BOTH, CORE: frozenset({"gate"})}
    assert changes_to(moved(found, wanted), wanted) == ()


@pytest.mark.parametrize("patches", [("gate",), ()], ids=["one", "none"])
def test_the_patches_that_stay_are_written_into_the_original(found: InstallState, patches: tuple[str, ...]) -> None:
    change = FileChange(NET, patched(NET, "bias", "gate"), patched(NET, *patches), NET_SHA256, applied(NET, patches))
    assert changes_to(moved(found, {NET: BOTH}), {NET: frozenset(patches)}) == (change,)


@pytest.mark.parametrize("patches", [("bias", "gate"), ()], ids=["apply", "revert"])
def test_an_original_that_came_back_is_known_and_needs_no_force(found: InstallState, patches: tuple[str, ...]) -> None:
    moved(found, {NET: BOTH})
    found.install.file(NET).write_bytes(RELEASED[NET])
    change = FileChange(NET, RELEASED[NET], patched(NET, *patches), NET_SHA256, applied(NET, patches))
    assert changes_to(inspect_install(found.install, found.catalog), {NET: frozenset(patches)}) == (change,)


def test_what_somebody_did_to_a_patched_file_is_overwritten_by_force_only(found: InstallState) -> None:
    now = edited(moved(found, {NET: BOTH}))
    check_says(refusal_of(now, "bias"), found.install.file(NET), "changed", "--force")
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


def test_a_patched_file_that_somebody_removed_comes_back_by_force_and_leaves_no_copy(found: InstallState) -> None:
    moved(found, {NET: BOTH})
    found.install.file(NET).unlink()
    now = inspect_install(found.install, found.catalog)
    check_says(refusal_of(now, "bias"), found.install.file(NET), "removed", "--force")
    assert changes_to(now, {NET: frozenset({"bias"})}, force=True) == (
        FileChange(NET, None, patched(NET, "bias"), NET_SHA256, applied(NET, ["bias"])),
    )


def test_a_file_that_is_missing_cannot_be_patched(found: InstallState) -> None:
    found.install.file(NET).unlink()
    assert refusal_of(inspect_install(found.install, found.catalog), "bias", allow_modified=True, force=True) == (
        f"{found.install.file(NET)} is missing. Reinstall neuralforecast: "
        "`pip install --force-reinstall --no-deps neuralforecast==1.0`."
    )


def test_a_file_that_is_not_the_released_one_is_patched_with_consent_only(found: InstallState) -> None:
    now, content = edited(found), RELEASED[NET] + EDIT
    check_says(refusal_of(now, "bias", force=True), found.install.file(NET), "--allow-modified")
    assert changes_to(now, {NET: BOTH}, allow_modified=True) == (
        FileChange(NET, content, patched(NET, "bias", "gate") + EDIT, hash_of(content), applied(NET, BOTH, content)),
    )


def test_a_result_that_is_not_on_record_is_written_with_consent_only_and_that_is_asked_once(
    found: InstallState,
) -> None:
    check_says(refusal_of(found, "bias", "own"), found.install.file(NET), "--allow-modified")
    now = moved(found, {NET: frozenset({"own"})}, allow_modified=True)
    assert changes_to(now, {NET: frozenset({"bias", "own"})}) == (
        FileChange(NET, patched(NET, "own"), patched(NET, "bias", "own"), NET_SHA256, applied(NET, ["bias", "own"])),
    )


def with_record(found: InstallState, rewrite: Rewrite, sha256: str = "") -> tuple[InstallState, InstallState]:
    """The install where one patch is known: as one of the user's own, and as one that is on record."""
    edits = edits_of(rewrite, SourceFile(RELEASED[NET]), fingerprinted=True)
    places = tuple(RecordedEdit(edit.start, edit.stop, len(edit.new), "", "") for edit in edits)
    patch = RecordedPatch(sha256 or digest_inserted_text(edits), (), places)
    recorded = RecordedFile((RELEASE,), NET_SHA256, "", 0, {"patch": patch})
    files = ({}, {NET: (recorded,)})
    catalogs = (Catalog((patch_of("patch", {"": {NET: rewrite}}),), Fingerprints((RELEASE,), f, {})) for f in files)
    own, on_record = (inspect_install(found.install, catalog) for catalog in catalogs)
    return own, on_record


def test_a_result_that_is_not_the_recorded_one_is_never_written(found: InstallState) -> None:
    _, on_record = with_record(found, BIAS.variants["==1.0"][NET], sha256="0" * 64)
    check_says(refusal_of(on_record, "patch", allow_modified=True), found.install.file(NET), "fingerprint", "pip list")


DEEP = "self.bias = " + "-" * 100 + "1"


@pytest.mark.parametrize(
    ("rewrite", "words"),
    [
        (
            Rewrite(
                (Change("Net.__init__", "self.bias = 1", "self.bias = 0"),), unused_arguments={"Net.forward": ("x",)}
            ),
            "for patch, `Net.forward` uses its `x` in line 9",
        ),
        (Rewrite((Change("Net.__init__", "self.bias = 1", DEEP),)), "it is nested too deeply to be parsed"),
    ],
    ids=["the rest of the file", "the result"],
)
def test_what_no_record_vouches_for_is_looked_at(found: InstallState, rewrite: Rewrite, words: str) -> None:
    own, on_record = with_record(found, rewrite)
    check_says(refusal_of(own, "patch", allow_modified=True), found.install.file(NET), words)
    (change,) = changes_to(on_record, {NET: frozenset({"patch"})})
    assert change.desired == RELEASED[NET].replace(b"self.bias = 1", str(rewrite.changes[0].new).encode())


def test_a_patch_that_the_catalog_does_not_have_is_never_left_out_in_silence(found: InstallState) -> None:
    said = refusal_of(found, "bias", "zeal", "alien", allow_modified=True)
    check_says(said, found.install.file(NET), "alien", "--patches")


def test_the_survey_after_a_change_is_what_a_look_at_the_install_tells(found: InstallState) -> None:
    for wanted in ({NET: BOTH, CORE: frozenset({"gate"})}, {NET: frozenset({"gate"}), CORE: NONE}):
        after = state_after(found, changes_to(found, wanted))
        found = moved(found, wanted)
        assert facts_of(found) == facts_of(after)


def test_the_originals_with_some_patches_are_told_whatever_the_files_carry(found: InstallState) -> None:
    now = edited(moved(found, {NET: BOTH}))
    assert original_with(now, frozenset({"gate", "step"})) == {
        NET: patched(NET, "gate"),
        CORE: patched(CORE, "gate", "step"),
    }


def test_of_a_file_that_is_not_the_released_one_that_is_told_with_consent_only(found: InstallState) -> None:
    now = edited(found)
    with pytest.raises(Refused) as refused:
        original_with(now, frozenset({"bias"}))
    check_says(str(refused.value), found.install.file(NET), "--allow-modified")
    assert original_with(now, frozenset({"bias"}), allow_modified=True) == {NET: patched(NET, "bias") + EDIT}
