"""Runtime modules: which ones `apply` adds, and when they are refused, updated or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Optional

import fake_install
import fingerprints
import pytest
from fake_install import (
    BIAS,
    COMPILED,
    CORE,
    INIT,
    LEDGER,
    NET,
    OPTIMIZED,
    RECORD,
    RELEASE,
    RELEASED,
    all_steps,
    describe_steps,
    facts_of,
    kept,
    make_install,
    patch_of,
    record_of,
)
from support import snapshot

from nfpatch.catalog import Catalog, Patch
from nfpatch.codemod import RUNTIME_PACKAGE, Change, Rewrite
from nfpatch.errors import RefusedError, UsageError
from nfpatch.fingerprints import Fingerprints
from nfpatch.installs.find import RUNTIME_FOLDER, Install, module_file
from nfpatch.installs.ledger import AppliedPatch, hash_of, original_path, read_ledger
from nfpatch.patching import operations
from nfpatch.patching.edits import digest_edits
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import ModuleChange, changes_to, original_with, originals_of, plan_apply
from nfpatch.patching.rewriting import edits_of, rewritten
from nfpatch.patching.source import SourceFile
from nfpatch.patching.steps import state_after

PACKAGE, RANKS, SIZES, WIDTHS = map(module_file, ("__init__", "ranks", "sizes", "widths"))
CACHE = f"{RUNTIME_FOLDER}/__pycache__"
MODULES = {
    "__init__": b'"""Fake."""\n',
    "ranks": b"NUMBER = 1\n",
    "sizes": b"from .ranks import NUMBER\n\n\ndef chosen():\n    return NUMBER\n",
    "widths": b"from . import ranks\n\n\ndef chosen():\n    return ranks.NUMBER\n",
    "unused": b"",
}


def hook(module: str, statement: str = "self.size = {}.chosen()") -> Rewrite:
    new = statement.format(module)
    return Rewrite((Change("Core.fit", "self.size = 2", new),), imports=(module,))


# A patch of two files and one of a single file, which share a module.
SIZE = patch_of(
    "size",
    {
        "==1.0": {
            CORE: hook("sizes"),
            NET: Rewrite((Change("Net.__init__", "self.size = 2", "self.size = sizes.chosen()"),), imports=("sizes",)),
        }
    },
    "!=1.0",
)
STEP = patch_of(
    "step",
    {
        "==1.0": {
            CORE: Rewrite((Change("Core.fit", "self.step = 1", "self.step = widths.chosen()"),), imports=("widths",))
        }
    },
    "!=1.0",
    opt_in=True,
)
# A user's own, without a fingerprint.
OWN = patch_of(
    "own",
    {"==1.0": {NET: Rewrite((Change("Net.forward", "return x", "return widths.chosen()"),), ("widths",))}},
    "!=1.0",
)


def catalog_of(*patches: Patch, modules: Mapping[str, bytes] = MODULES, own: tuple[Patch, ...] = (OWN,)) -> Catalog:
    """A catalog of these patches, which have fingerprints, and of the user's own, which have none."""
    with pytest.MonkeyPatch.context() as made:
        made.setattr(fingerprints, "RELEASES", (RELEASE,))
        made.setattr(fingerprints, "read_member", lambda release, file: RELEASED[file])
        record = fingerprints.fingerprints_of(Catalog(patches, Fingerprints((), {}, {})))
    return Catalog(tuple(sorted((*patches, *own))), record, modules)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return catalog_of(BIAS, SIZE, STEP)


# A newer nfpatch: one patch has another hook, and a module of two patches is another one.
NEW_STEP = STEP._replace(
    variants={
        "==1.0": {
            CORE: Rewrite((Change("Core.fit", "self.step = 1", "self.step = -widths.chosen()"),), imports=("widths",))
        }
    }
)
NEW_MODULES = {**MODULES, "ranks": b"NUMBER = 2\n"}


@pytest.fixture(scope="module")
def newer() -> Catalog:
    return catalog_of(BIAS, SIZE, NEW_STEP, modules=NEW_MODULES)


def apply(install: Install, catalog: Catalog, *patches: Patch, **options: bool) -> operations.OperationResult:
    return operations.apply(install, catalog, patches, **options)


def revert(install: Install, catalog: Catalog, *patches: Patch, **options: bool) -> operations.OperationResult:
    return operations.revert(install, catalog, patches, **options)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as refused:
        action()
    return str(refused.value)


def states(install: Install, catalog: Catalog) -> dict[str, str]:
    return {status.patch.id: status.state for status in inspect_install(install, catalog).statuses}


def added(install: Install) -> dict[str, bytes]:
    """The runtime modules in the install, by name."""
    folder = install.file(RUNTIME_FOLDER)
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def modules_named(*names: str, modules: Mapping[str, bytes] = MODULES) -> dict[str, bytes]:
    return {name: modules[name] for name in ("__init__", *names)}


def everything(install: Install) -> dict[str, object]:
    return dict(snapshot(install.root))


# --- the catalog ---


def test_a_patch_needs_the_modules_that_its_hooks_import_and_what_these_import(catalog: Catalog) -> None:
    assert catalog.modules_for(SIZE, RELEASE) == ("__init__", "ranks", "sizes")
    assert catalog.modules_for(STEP, RELEASE) == ("__init__", "ranks", "widths")
    assert catalog.modules_for(BIAS, RELEASE) == ()
    assert catalog.modules_for(SIZE, "2.0") == ()


@pytest.mark.parametrize(
    ("text", "siblings"),
    [
        ("from . import a\n", "a"),
        ("from . import a, b as c\n", "a b"),
        ("from . import (\n    a,  # why\n    b,\n)\n", "a b"),
        ("from .a import (\n    x,\n    y,\n)\nfrom .b import z  # noqa\n", "a b"),
        ("def f():\n    from .a import x\n", "a"),
        ("import os\nfrom torch import nn\nfrom os.path import join\n", ""),
    ],
)
def test_siblings_are_found_in_every_form_of_a_relative_import(text: str, siblings: str) -> None:
    modules = {"__init__": b"", "start": text.encode(), **dict.fromkeys(siblings.split(), b"")}
    found = Catalog((), Fingerprints((), {}, {}), modules).modules_of(Rewrite((), imports=("start",)))
    assert found == ("__init__", *siblings.split(), "start")


def test_modules_that_import_each_other_are_found_once() -> None:
    modules = {"__init__": b"", "a": b"from . import b\n", "b": b"from . import a\n"}
    assert Catalog((), Fingerprints((), {}, {}), modules).modules_of(Rewrite((), ("a",))) == ("__init__", "a", "b")


@pytest.mark.parametrize("lacking", ["sizes", "ranks", "__init__"])
def test_a_module_that_does_not_exist_is_named_with_the_patch(lacking: str) -> None:
    modules = {name: content for name, content in MODULES.items() if name != lacking}
    with pytest.raises(UsageError) as error:
        Catalog((SIZE,), Fingerprints((), {}, {}), modules).check_modules()
    assert "size" in str(error.value)
    assert repr(lacking) in str(error.value)


def test_hooks_import_modules_from_their_path_in_the_install() -> None:
    assert RUNTIME_PACKAGE.replace(".", "/") == RUNTIME_FOLDER


# --- apply and revert ---


def test_the_install_has_exactly_the_modules_of_its_patches(install: Install, catalog: Catalog) -> None:
    released = everything(install)
    apply(install, catalog, BIAS)
    assert added(install) == {}
    assert set(apply(install, catalog, SIZE).changed) == {CORE, NET, PACKAGE, RANKS, SIZES}
    assert added(install) == modules_named("ranks", "sizes")
    assert set(apply(install, catalog, STEP).changed) == {CORE, WIDTHS}
    assert added(install) == modules_named("ranks", "sizes", "widths")
    assert set(revert(install, catalog, SIZE).changed) == {CORE, NET, SIZES}
    assert added(install) == modules_named("ranks", "widths")
    assert set(revert(install, catalog, STEP).changed) == {CORE, PACKAGE, RANKS, WIDTHS}
    assert not install.file(RUNTIME_FOLDER).exists()
    revert(install, catalog)
    assert everything(install) == released


def test_a_set_of_patches_gives_the_same_tree_by_any_way(install: Install, catalog: Catalog, tmp_path: Path) -> None:
    other = make_install(tmp_path / "other")
    apply(install, catalog, SIZE, STEP)
    for patches in ((STEP,), (BIAS,), (SIZE,)):
        apply(other, catalog, *patches)
    revert(other, catalog, BIAS)
    assert everything(install) == everything(other)


def test_the_predicted_state_after_a_change_matches_the_inspected_one(install: Install, catalog: Catalog) -> None:
    for action in (apply, revert):
        for patches in ((SIZE,), (STEP,), (OWN,)):
            outcome = action(install, catalog, *patches, **({"allow_modified": True} if action is apply else {}))
            assert facts_of(outcome.state) == facts_of(inspect_install(install, catalog))


def test_modules_are_written_before_the_files_that_import_them_and_removed_after(
    install: Install, catalog: Catalog
) -> None:
    found = inspect_install(install, catalog)
    writing = describe_steps(found, all_steps(found, changes_to(found, {CORE: frozenset({"step"})})))
    ledger = state_after(found, changes_to(found, {CORE: frozenset({"step"})})).ledger.to_bytes()
    patched = rewritten(RELEASED[CORE], {"step": STEP.variants["==1.0"][CORE]})
    rows = {
        **fake_install.RELEASED_ROWS,
        CORE: patched,
        PACKAGE: MODULES["__init__"],
        RANKS: MODULES["ranks"],
        WIDTHS: MODULES["widths"],
        LEDGER: ledger,
        kept(RECORD): fake_install.RELEASED_RECORD,
        kept(CORE): RELEASED[CORE],
    }
    assert writing == [
        ("Folder", RUNTIME_FOLDER),
        ("Write", PACKAGE, MODULES["__init__"], INIT),
        ("Write", RANKS, MODULES["ranks"], INIT),
        ("Write", WIDTHS, MODULES["widths"], INIT),
        ("LinkOrCopy", kept(CORE), CORE),
        ("Write", CORE, patched, CORE),
        ("LinkOrCopy", kept(RECORD), RECORD),
        ("Write", RECORD, record_of(rows), None),
        ("Write", LEDGER, ledger, None),
    ]
    apply(install, catalog, STEP)
    compiled = f"{CACHE}/widths.cpython-311.pyc"
    install.file(compiled).parent.mkdir()
    install.file(compiled).write_bytes(b"compiled")
    found = inspect_install(install, catalog)
    assert describe_steps(found, all_steps(found, changes_to(found, {CORE: frozenset()}))) == [
        ("Move", CORE, kept(CORE)),
        ("Remove", PACKAGE),
        ("Remove", RANKS),
        ("Remove", WIDTHS),
        ("Remove", compiled),
        ("Move", RECORD, kept(RECORD)),
        ("Remove", LEDGER),
        ("Prune", "neuralforecast/__pycache__"),
        ("Prune", CACHE),
        ("Prune", RUNTIME_FOLDER),
    ]


def test_the_ledger_lists_added_files_and_their_patches(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, SIZE, STEP)
    ledger = read_ledger(install)
    assert ledger.added == {
        module_file(name): hash_of(MODULES[name]) for name in ("__init__", "ranks", "sizes", "widths")
    }
    digest = digest_edits(edits_of(STEP.variants["==1.0"][CORE], SourceFile(RELEASED[CORE])))
    assert ledger.files[CORE].patches["step"] == AppliedPatch(digest, ("__init__", "ranks", "widths"))
    assert list(ledger.files[CORE].patches) == ["size", "step"]


def test_bytecode_of_a_module_is_removed_with_it_and_other_files_are_kept(install: Install, catalog: Catalog) -> None:
    released = everything(install)
    apply(install, catalog, SIZE)
    for name in ("sizes.cpython-311.pyc", "ranks.cpython-312.opt-1.pyc"):
        install.file(f"{CACHE}/{name}").parent.mkdir(exist_ok=True)
        install.file(f"{CACHE}/{name}").write_bytes(b"compiled")
    revert(install, catalog)
    assert everything(install) == released

    apply(install, catalog, SIZE)
    install.file(f"{RUNTIME_FOLDER}/mine.txt").write_text("mine")
    revert(install, catalog)
    assert os.listdir(install.file(RUNTIME_FOLDER)) == ["mine.txt"]
    shutil.rmtree(install.file(RUNTIME_FOLDER))
    assert everything(install) == released


def test_stale_bytecode_is_removed_when_a_module_is_written(install: Install, catalog: Catalog) -> None:
    stale = install.file(f"{CACHE}/sizes.cpython-311.pyc")
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"compiled")
    apply(install, catalog, SIZE)
    assert not stale.exists()


def test_a_checkout_lists_added_files_only_in_its_ledger(install: Install, catalog: Catalog, tmp_path: Path) -> None:
    from nfpatch.installs.find import find_install

    for name in (INIT, CORE, NET):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(RELEASED[name])
    checkout = find_install(site_packages=tmp_path / "checkout")
    before = everything(checkout)
    apply(checkout, catalog, SIZE, allow_editable=True)
    assert added(checkout) == modules_named("ranks", "sizes")
    revert(checkout, catalog)
    assert everything(checkout) == before


# --- edited and removed modules ---


def edit(path: Path) -> None:
    path.write_bytes(b"# edited\n")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [edit, remove])
def test_an_edited_module_is_overwritten_only_with_force(
    change: Callable[[Path], None], install: Install, catalog: Catalog
) -> None:
    released = everything(install)
    apply(install, catalog, SIZE)
    patched = everything(install)
    path = install.file(SIZES)
    change(path)
    changed_tree = everything(install)
    assert states(install, catalog)["size"] == "modified"
    assert states(install, catalog)["bias"] == "applicable"
    assert str(path) in refusal(lambda: apply(install, catalog, SIZE))
    assert everything(install) == changed_tree

    copy = path.with_name("sizes.py.nfpatch-saved")
    outcome = apply(install, catalog, SIZE, force=True)
    assert outcome.backups == ((copy,) if change is edit else ())
    if change is edit:
        assert copy.read_bytes() == b"# edited\n"
        copy.unlink()
    assert everything(install) == patched

    change(path)
    if change is edit:
        assert str(path) in refusal(lambda: revert(install, catalog, SIZE))
        assert revert(install, catalog, SIZE, force=True).backups == (copy,)
        assert [each.name for each in install.file(RUNTIME_FOLDER).iterdir()] == [copy.name]
        shutil.rmtree(install.file(RUNTIME_FOLDER))
    else:
        revert(install, catalog, SIZE)
    assert everything(install) == released


def test_revert_works_if_a_module_is_missing(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, BIAS)
    without = everything(install)
    apply(install, catalog, SIZE)
    shutil.rmtree(install.file(RUNTIME_FOLDER))
    revert(install, catalog, SIZE)
    assert everything(install) == without


def test_an_edited_module_does_not_concern_patches_that_do_not_need_it(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, SIZE, BIAS)
    apply(install, catalog, OWN, allow_modified=True)
    install.file(WIDTHS).write_bytes(b"# edited\n")
    found = states(install, catalog)
    assert (found["bias"], found["own"], found["size"]) == ("applied", "modified", "applied")
    apply(install, catalog, BIAS)
    outcome = operations.revert(install, catalog, [OWN], force=True)
    assert [path.name for path in outcome.backups] == ["widths.py.nfpatch-saved"]


def test_a_row_removed_from_record_is_written_again(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, SIZE)
    record = install.file(RECORD)
    record.write_text("".join(line for line in record.read_text().splitlines(True) if "_nfpatch" not in line))
    apply(install, catalog, BIAS)
    rows = record.read_text()
    assert all(rows.count(f"{module},sha256=") == 1 for module in (PACKAGE, RANKS, SIZES))


# --- foreign files at the paths of modules ---


def as_file(path: Path) -> None:
    path.write_bytes(b"mine")


def as_equal_file(path: Path) -> None:
    path.write_bytes(MODULES["sizes"])


def as_folder(path: Path) -> None:
    path.mkdir()


def as_link(path: Path) -> None:
    path.symlink_to("../core.py")


def as_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(700 * 1024 * 1024)


FOREIGN = (as_file, as_equal_file, as_folder, as_link, as_dangling_link, as_pipe, as_huge_file)


def paths_and_times(install: Install) -> dict[str, tuple[object, ...]]:
    """All paths with their mode, files with size and time, without opening any, as some would block."""
    entries: dict[str, tuple[object, ...]] = {}
    for path in install.root.rglob("*"):
        status = path.lstat()
        entries[str(path)] = (status.st_mode, *((status.st_size, status.st_mtime_ns) if path.is_file() else ()))
    return entries


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("options", [{}, {"force": True}, {"allow_modified": True}], ids=str)
def test_a_foreign_file_at_the_path_of_a_module_is_not_overwritten(
    options: dict[str, bool], foreign: Callable[[Path], None], install: Install, catalog: Catalog
) -> None:
    path = install.file(SIZES)
    path.parent.mkdir()
    foreign(path)
    before = paths_and_times(install)
    assert states(install, catalog) == {"bias": "applicable", "own": "modified", "size": "modified", "step": "opt-in"}
    assert str(path) in refusal(lambda: apply(install, catalog, BIAS, SIZE, **options))
    assert paths_and_times(install) == before
    assert apply(install, catalog, STEP).changed


@pytest.mark.parametrize("foreign", [each for each in FOREIGN if each not in (as_folder,)], ids=lambda m: m.__name__)
def test_a_foreign_file_at_the_path_of_their_folder_is_not_overwritten(
    foreign: Callable[[Path], None], install: Install, catalog: Catalog
) -> None:
    path = install.file(RUNTIME_FOLDER)
    foreign(path)
    before = paths_and_times(install)
    found = states(install, catalog)
    assert (found["bias"], found["own"], found["size"]) == ("applicable", "modified", "modified")
    assert str(path) in refusal(lambda: apply(install, catalog, SIZE, force=True))
    assert paths_and_times(install) == before
    assert apply(install, catalog, BIAS).changed


def test_a_linked_folder_is_not_followed(install: Install, catalog: Catalog, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    install.file(RUNTIME_FOLDER).symlink_to(outside)
    assert "symbolic link" in refusal(lambda: apply(install, catalog, SIZE, force=True))
    assert not list(outside.iterdir())


@pytest.mark.parametrize("foreign", [as_folder, as_link, as_pipe], ids=lambda make: make.__name__)
def test_a_replaced_module_is_neither_followed_nor_removed(
    foreign: Callable[[Path], None], install: Install, catalog: Catalog
) -> None:
    apply(install, catalog, SIZE)
    path = install.file(SIZES)
    path.unlink()
    foreign(path)
    before = paths_and_times(install)
    assert states(install, catalog)["size"] == "modified"
    assert str(path) in refusal(lambda: apply(install, catalog, SIZE, force=True))
    assert str(path) in refusal(lambda: revert(install, catalog, SIZE, force=True))
    assert paths_and_times(install) == before


def test_without_the_ledger_a_patch_is_applied_only_if_its_modules_are_there(
    install: Install, catalog: Catalog
) -> None:
    apply(install, catalog, SIZE)
    install.file(LEDGER).unlink()
    assert states(install, catalog)["size"] == "applied"
    install.file(SIZES).write_bytes(b"# edited\n")
    assert states(install, catalog)["size"] == "modified"
    install.file(SIZES).unlink()
    assert states(install, catalog)["size"] == "modified"


# --- outdated ---


def test_a_patch_that_the_catalog_would_write_differently_is_outdated(
    install: Install, catalog: Catalog, newer: Catalog
) -> None:
    apply(install, catalog, BIAS, SIZE, STEP)
    assert states(install, catalog) == {"bias": "applied", "own": "applicable", "size": "applied", "step": "applied"}
    found = inspect_install(install, newer)
    assert {status.patch.id: status.state for status in found.statuses} == {
        "bias": "applied",
        "own": "applicable",
        "size": "outdated",
        "step": "outdated",
    }
    assert found.differences(SIZE) == (RANKS,)
    assert found.differences(NEW_STEP) == (RANKS, CORE)
    assert found.differences(BIAS) == ()
    assert RANKS in found.status_of(SIZE).reason
    assert found.status_of(NEW_STEP).files == {CORE: "outdated"}


def test_apply_updates_all_outdated_patches_and_revert_removes_them(
    install: Install, catalog: Catalog, newer: Catalog, tmp_path: Path
) -> None:
    released = everything(install)
    apply(install, catalog, BIAS, SIZE, STEP)
    outcome = apply(install, newer, BIAS, SIZE, renew_all=True)
    assert set(outcome.changed) == {CORE, RANKS}
    assert [patch.id for patch in outcome.renewed] == ["size", "step"]
    assert outcome.changed_patches == ()
    assert facts_of(outcome.state) == facts_of(inspect_install(install, newer))
    fresh = make_install(tmp_path / "fresh")
    apply(fresh, newer, BIAS, SIZE, NEW_STEP)
    assert everything(install) == everything(fresh)
    assert apply(install, newer, renew_all=True).changed == ()
    revert(install, newer)
    assert everything(install) == released


def test_revert_restores_the_released_bytes_with_any_catalog(
    install: Install, catalog: Catalog, newer: Catalog
) -> None:
    released = everything(install)
    for now in (newer, catalog_of(BIAS, modules=MODULES, own=()), catalog_of(modules={}, own=())):
        apply(install, catalog, BIAS, SIZE, STEP)
        revert(install, now)
        assert everything(install) == released


def test_apply_of_named_patches_updates_outdated_patches_of_the_same_files(
    install: Install, catalog: Catalog, newer: Catalog, tmp_path: Path
) -> None:
    apply(install, catalog, SIZE, STEP)
    # NET has `size`, which shares a module with `step` in CORE
    outcome = apply(install, newer, BIAS)
    assert set(outcome.changed) == {CORE, NET, RANKS}
    assert [patch.id for patch in outcome.renewed] == ["size", "step"]
    fresh = make_install(tmp_path / "fresh")
    apply(fresh, newer, BIAS, SIZE, NEW_STEP)
    assert everything(install) == everything(fresh)


def test_revert_of_a_named_patch_updates_outdated_patches_of_the_same_files(
    install: Install, catalog: Catalog, newer: Catalog, tmp_path: Path
) -> None:
    apply(install, catalog, BIAS, SIZE, STEP)
    revert(install, newer, SIZE)
    fresh = make_install(tmp_path / "fresh")
    apply(fresh, newer, BIAS, NEW_STEP)
    assert everything(install) == everything(fresh)


def test_a_command_on_named_patches_does_not_update_other_files(
    install: Install, catalog: Catalog, newer: Catalog
) -> None:
    apply(install, catalog, STEP)
    core, ranks = install.file(CORE).read_bytes(), install.file(RANKS).read_bytes()
    assert apply(install, newer, BIAS).changed == (NET,)
    assert (install.file(CORE).read_bytes(), install.file(RANKS).read_bytes()) == (core, ranks)
    assert states(install, newer)["step"] == "outdated"


def test_an_edited_outdated_file_is_modified_and_not_updated_silently(
    install: Install, catalog: Catalog, newer: Catalog
) -> None:
    apply(install, catalog, BIAS, STEP)
    install.file(CORE).write_bytes(b"edited")
    before = everything(install)
    assert states(install, newer)["step"] == "modified"
    assert str(install.file(CORE)) in refusal(lambda: apply(install, newer, BIAS, renew_all=True))
    assert everything(install) == before


def test_an_edited_outdated_module_is_not_updated_silently(install: Install, catalog: Catalog, newer: Catalog) -> None:
    apply(install, catalog, SIZE)
    install.file(RANKS).write_bytes(b"edited")
    before = everything(install)
    assert states(install, newer)["size"] == "modified"
    assert str(install.file(RANKS)) in refusal(lambda: apply(install, newer, renew_all=True))
    assert everything(install) == before


def without_core() -> Patch:
    return SIZE._replace(variants={"==1.0": {NET: SIZE.variants["==1.0"][NET]}})


@pytest.mark.parametrize(
    ("then", "now"), [(SIZE, without_core()), (without_core(), SIZE)], ids=["from a file", "to a file"]
)
def test_a_patch_that_moved_to_other_files_is_outdated_and_updated(
    then: Patch, now: Patch, install: Install, tmp_path: Path
) -> None:
    older, newer = (catalog_of(BIAS, patch, own=()) for patch in (then, now))
    apply(install, older, then)
    assert states(install, newer) == {"bias": "applicable", "size": "outdated"}
    assert apply(install, newer, renew_all=True).changed == (CORE,)
    fresh = make_install(tmp_path / "fresh")
    apply(fresh, newer, now)
    assert everything(install) == everything(fresh)


def test_patches_that_share_only_a_module_are_updated_together(install: Install, tmp_path: Path) -> None:
    size = without_core()
    apply(install, catalog_of(BIAS, size, STEP, own=()), size, STEP)
    newer = catalog_of(BIAS, size, NEW_STEP, modules=NEW_MODULES, own=())
    # BIAS is in the file of `size`; a module of `size` is updated, which `step` needs in another file
    assert set(apply(install, newer, BIAS).changed) == {CORE, NET, RANKS}
    fresh = make_install(tmp_path / "fresh")
    apply(fresh, newer, BIAS, size, NEW_STEP)
    assert everything(install) == everything(fresh)


def test_a_patch_that_the_release_no_longer_needs_is_removed(install: Install, catalog: Catalog) -> None:
    released = everything(install)
    apply(install, catalog, SIZE)
    newer = catalog_of(BIAS, SIZE._replace(variants={}, unaffected={"": "fixed upstream"}), own=())
    assert states(install, newer)["size"] == "outdated"
    apply(install, newer, renew_all=True)
    assert everything(install) == released


def test_a_new_import_of_a_module_adds_that_module(install: Install, catalog: Catalog) -> None:
    released = everything(install)
    apply(install, catalog, SIZE)
    newer = catalog_of(SIZE, modules={**MODULES, "ranks": b"from . import unused\n"}, own=())
    assert states(install, newer)["size"] == "outdated"
    assert set(apply(install, newer, SIZE).changed) == {RANKS, module_file("unused")}
    revert(install, newer)
    assert everything(install) == released


# --- patches without a fingerprint ---


@pytest.fixture
def with_own(install: Install, catalog: Catalog) -> Install:
    apply(install, catalog, OWN, allow_modified=True)
    return install


NEW_OWN = OWN._replace(
    variants={"==1.0": {NET: Rewrite((Change("Net.forward", "return x", "return -widths.chosen()"),), ("widths",))}}
)


def test_a_patch_without_a_fingerprint_is_compared_with_the_kept_original(with_own: Install, catalog: Catalog) -> None:
    assert states(with_own, catalog)["own"] == "applied"
    newer = catalog_of(BIAS, SIZE, STEP, own=(NEW_OWN,))
    assert states(with_own, newer)["own"] == "outdated"
    assert apply(with_own, newer, renew_all=True).changed == (NET,)
    assert b"return -widths" in with_own.file(NET).read_bytes()
    assert states(with_own, newer)["own"] == "applied"


def test_a_patch_whose_hooks_no_longer_fit_the_original_is_outdated_and_refused(
    with_own: Install, catalog: Catalog
) -> None:
    misfit = OWN._replace(variants={"==1.0": {NET: Rewrite((Change("Net.forward", "return y", "return 1"),))}})
    newer = catalog_of(BIAS, SIZE, STEP, own=(misfit,))
    assert states(with_own, newer)["own"] == "outdated"
    assert "return y" in refusal(lambda: apply(with_own, newer, renew_all=True))


def test_a_patch_with_a_lost_original_is_applied(with_own: Install, catalog: Catalog) -> None:
    original_path(with_own, NET).unlink()
    assert states(with_own, catalog_of(BIAS, SIZE, STEP, own=(NEW_OWN,)))["own"] == "applied"


def test_a_patch_that_the_catalog_lacks_keeps_its_modules_and_blocks_nothing(
    with_own: Install, catalog: Catalog
) -> None:
    bare = catalog_of(SIZE, STEP, own=())
    apply(with_own, bare, STEP)
    revert(with_own, bare, STEP)
    assert added(with_own) == modules_named("ranks", "widths")
    assert read_ledger(with_own).patch_ids == {"own"}


def test_a_module_of_a_patch_that_the_catalog_lacks_is_not_updated(with_own: Install, catalog: Catalog) -> None:
    before = everything(with_own)
    newer = catalog_of(SIZE, NEW_STEP, modules=NEW_MODULES, own=())
    message = refusal(lambda: apply(with_own, newer, NEW_STEP))
    assert "own" in message
    assert str(with_own.file(RANKS)) in message
    assert everything(with_own) == before


# --- computed trees ---


def test_the_originals_have_no_added_files(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, STEP)
    none: Optional[bytes] = None
    assert originals_of(inspect_install(install, catalog)) == {
        CORE: RELEASED[CORE],
        **dict.fromkeys((PACKAGE, RANKS, WIDTHS), none),
    }


def test_the_originals_with_some_patches_have_their_modules(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, STEP)
    assert original_with(inspect_install(install, catalog), frozenset({"size"})) == {
        **{file: rewritten(RELEASED[file], {"size": SIZE.variants["==1.0"][file]}) for file in (CORE, NET)},
        **{module_file(name): MODULES[name] for name in ("__init__", "ranks", "sizes")},
    }


def test_changes_have_the_bytes_before_and_after(install: Install, catalog: Catalog) -> None:
    def changes(found: InstallState) -> list[ModuleChange]:
        wanted = plan_apply(found, [STEP])
        return [change for change in changes_to(found, wanted) if isinstance(change, ModuleChange)]

    assert changes(inspect_install(install, catalog)) == [
        ModuleChange(module_file(name), None, MODULES[name]) for name in ("__init__", "ranks", "widths")
    ]
    apply(install, catalog, SIZE)
    assert changes(inspect_install(install, catalog)) == [ModuleChange(WIDTHS, None, MODULES["widths"])]


def test_added_files_get_the_mode_of_their_neighbours(install: Install, catalog: Catalog) -> None:
    install.file(INIT).chmod(0o604)
    install.package.chmod(0o705)
    apply(install, catalog, SIZE)
    assert {install.file(module).stat().st_mode & 0o777 for module in (PACKAGE, RANKS, SIZES)} == {0o604}
    assert install.file(RUNTIME_FOLDER).stat().st_mode & 0o777 == 0o705


def test_a_hard_linked_copy_is_unchanged_when_a_module_is_updated(
    install: Install, catalog: Catalog, newer: Catalog, tmp_path: Path
) -> None:
    apply(install, catalog, SIZE)
    twin = tmp_path / "twin"
    shutil.copytree(install.root, twin, copy_function=os.link)
    assert (twin / RANKS).samefile(install.file(RANKS))
    before = snapshot(twin)
    apply(install, newer, SIZE)
    assert not (twin / RANKS).samefile(install.file(RANKS))
    revert(install, newer)
    assert snapshot(twin) == before


def test_the_ledger_lists_the_bytecode_of_a_patched_file(install: Install, catalog: Catalog) -> None:
    apply(install, catalog, SIZE)
    assert read_ledger(install).files[NET].bytecode == (OPTIMIZED, COMPILED)
