"""Which files count as models, and that `migrate` replaces all of a folder's files or none."""

from __future__ import annotations

import errno
import os
import pickle
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Strike, call_forked, fail_at, kill_at
from support import snapshot

from nfpatch.checkpoint.files import Replacement, model_files, remove_leftovers, replace_all, staging_folder
from nfpatch.errors import InstallEnvironmentError, NfpatchError, RefusedError, UsageError

NAMES = ("NBEATSx_0.ckpt", "TFT_0.ckpt")
KINDS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder as NeuralForecast.save writes it, with text instead of models."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(f"old {name}".encode())
        (folder / name).chmod(0o640)
    (folder / "configuration.pkl").write_bytes(b"configuration")
    return folder


def migrate(folder: Path, keep: bool = True) -> tuple[int, str]:
    """Migrate the files that start with "old" without a worker; the exit code and the message."""
    try:
        stale = [folder / name for name in NAMES if (folder / name).read_bytes().startswith(b"old")]
        seen = [path.stat() for path in stale]
        if stale:
            with staging_folder(folder) as staging:
                for path in stale:
                    (staging / path.name).write_bytes(f"new {path.name}".encode())
                new = [Replacement(path, status, staging / path.name) for path, status in zip(stale, seen)]
                replace_all(new, staging, keep)
        else:
            remove_leftovers(folder)
    except NfpatchError as error:
        return error.exit_code, f"{error}\n"
    except OSError as error:  # from reading the old and writing the new files, which the worker does
        return 4, f"{error}\n"
    return 0, ""


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


OLD = {name: f"old {name}".encode() for name in NAMES}
NEW = {name: f"new {name}".encode() for name in NAMES}


def files_that_load_reads(folder: Path) -> list[str]:
    """The files that `NeuralForecast.load` takes for models, in every release."""
    return sorted(e.name for e in os.scandir(folder) if e.is_file() and e.name.endswith((".ckpt", ".safetensors")))


def fresh_copy(models: Path, tmp_path: Path) -> Path:
    work = tmp_path / "work"
    subprocess.run(["rm", "-rf", work], check=True)
    subprocess.run(["cp", "-a", models, work], check=True)
    return work


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "not kept"])
def test_a_kill_at_any_operation_leaves_whole_files_and_a_rerun_finishes(
    models: Path, tmp_path: Path, keep: bool
) -> None:
    points = 0
    while True:
        work = fresh_copy(models, tmp_path)
        ended = call_forked(lambda folder=work: migrate(folder, keep), work, kill_at(points + 1))  # type: ignore[misc]
        if ended.code == 0:
            break
        assert ended.code == -9, ended
        points += 1

        assert all(content in (OLD[name], NEW[name]) for name, content in contents(work).items())
        assert files_that_load_reads(work) == list(NAMES)
        assert migrate(work, keep) == (0, "")
        assert contents(work) == NEW
        backups = {path.name: path.read_bytes() for path in work.glob("*.nfpatch-backup*")}
        if keep:
            assert backups == {f"{name}.nfpatch-backup": OLD[name] for name in NAMES}, f"kill point {points}"
        assert [path.name for path in work.iterdir() if path.is_dir()] == []
    assert points > 15
    print(f"{points} kill points")


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "not kept"])
@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
def test_any_operation_that_fails_leaves_the_folder_unchanged(
    models: Path, tmp_path: Path, number: int, keep: bool
) -> None:
    check_failures(models, tmp_path, keep, lambda point: fail_at(point, number))


def test_a_full_disk_leaves_the_folder_unchanged(models: Path, tmp_path: Path) -> None:
    check_failures(models, tmp_path, True, lambda point: fail_at(point, errno.ENOSPC, from_then_on=True))


def check_failures(models: Path, tmp_path: Path, keep: bool, strike_at: Callable[[int], Strike]) -> None:
    before = snapshot(models)
    point = failures = 0
    while True:
        point += 1
        work = fresh_copy(models, tmp_path)
        ended = call_forked(lambda folder=work: migrate(folder, keep), work, strike_at(point))  # type: ignore[misc]
        if ended.code == 0:
            assert contents(work) == NEW
            if ended.operations < point:
                break
            continue
        failures += 1
        assert ended.code == 4, ended
        assert str(work) in ended.stderr
        left = {path: entry for path, entry in snapshot(work).items() if not path.startswith(".nfpatch-migrate-")}
        assert left == before, f"operation {point}: {ended.stderr}"
    assert failures > 8


def test_mode_and_owner_are_kept_and_the_backup_is_the_old_file_itself(models: Path) -> None:
    before = (models / "TFT_0.ckpt").stat()

    assert migrate(models) == (0, "")

    after, kept = (models / "TFT_0.ckpt").stat(), (models / "TFT_0.ckpt.nfpatch-backup").stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert (kept.st_ino, kept.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_second_migration_keeps_both_backups(models: Path) -> None:
    migrate(models)
    for name in NAMES:
        (models / name).write_bytes(b"old again")
    migrate(models)

    assert (models / "TFT_0.ckpt.nfpatch-backup").read_bytes() == OLD["TFT_0.ckpt"]
    assert (models / "TFT_0.ckpt.nfpatch-backup-2").read_bytes() == b"old again"


def test_hard_linked_files_and_targets_of_symbolic_links_are_unchanged(models: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    os.link(models / "TFT_0.ckpt", cache / "twin")
    os.replace(models / "NBEATSx_0.ckpt", cache / "target")
    (models / "NBEATSx_0.ckpt").symlink_to("../cache/target")

    assert migrate(models) == (0, "")

    assert (cache / "twin").read_bytes() == OLD["TFT_0.ckpt"]
    assert (cache / "target").read_bytes() == OLD["NBEATSx_0.ckpt"]
    assert contents(models) == NEW
    assert (models / "NBEATSx_0.ckpt.nfpatch-backup").read_bytes() == OLD["NBEATSx_0.ckpt"]


def test_a_file_that_is_saved_during_the_migration_is_not_overwritten(models: Path) -> None:
    path = models / "TFT_0.ckpt"
    with staging_folder(models) as staging:
        (staging / "new").write_bytes(b"new")
        replacement = Replacement(path, path.stat(), staging / "new")
        path.write_bytes(b"a better model")
        with pytest.raises(RefusedError, match=re.escape(str(path))):
            replace_all([replacement], staging, keep=True)
    assert path.read_bytes() == b"a better model"


def test_a_second_migration_of_a_folder_at_the_same_time_is_an_environment_error(models: Path) -> None:
    with staging_folder(models) as first:
        with pytest.raises(InstallEnvironmentError, match=re.escape(str(models))), staging_folder(models):
            pass
        assert first.is_dir()


def test_a_folder_without_write_permission_is_an_environment_error(models: Path) -> None:
    command = [sys.executable, "-c", UNPRIVILEGED, str(models)]
    models.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    models.chmod(0o755)
    assert f"InstallEnvironmentError {models}" in done.stdout, done.stderr


UNPRIVILEGED = """
import fcntl, os, sys
from pathlib import Path
from nfpatch.checkpoint.files import staging_folder
from nfpatch.errors import InstallEnvironmentError
for folder in Path(sys.argv[1]).parents:
    if os.getuid() == 0 and folder != Path("/") and folder.stat().st_uid == 0 and str(folder).count("/") > 1:
        folder.chmod(0o755)
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    with staging_folder(Path(sys.argv[1])):
        print("written")
except InstallEnvironmentError as error:
    print("InstallEnvironmentError", sys.argv[1] if sys.argv[1] in str(error) else error)
"""


def test_all_models_of_a_folder_are_found_and_no_other_files(models: Path) -> None:
    for name in ("dataset.safetensors", "configuration.safetensors", "TFT_0.ckpt.nfpatch-backup", "notes.txt"):
        (models / name).touch()
    (models / "MyTFT_1.safetensors").touch()
    (models / "sharded.ckpt").mkdir()
    (models / "alias_to_model.pkl").write_bytes(pickle.dumps({"MyTFT": "tft"}))

    found = {file.path.name: (file.claimed, file.suggested) for file in model_files(models)}

    assert found == {
        "MyTFT_1.safetensors": ("tft", ("MyTFT",)),
        "NBEATSx_0.ckpt": (None, ("NBEATSx",)),
        "TFT_0.ckpt": (None, ("TFT",)),
    }
    assert all(file.claimed == "TFT" for file in model_files(models, "TFT"))


def test_classes_are_read_from_the_configuration_of_3_3_0(models: Path) -> None:
    (models / "configuration.json").write_text('{"configuration": {"alias_to_model": {"TFT": "tft"}}}')
    assert {file.claimed for file in model_files(models)} == {None, "tft"}
    assert [file.claimed for file in model_files(models / "TFT_0.ckpt")] == ["tft"]


def test_an_alias_map_that_would_run_code_is_ignored(models: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "ran"),)

    (models / "alias_to_model.pkl").write_bytes(pickle.dumps({"TFT": Evil()}))

    assert {file.claimed for file in model_files(models)} == {None}
    assert not (tmp_path / "ran").exists()


def test_a_path_without_models_is_a_usage_error_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "missing"))):
        model_files(tmp_path / "missing")
    with pytest.raises(RefusedError, match=re.escape(str(tmp_path))):
        model_files(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedError, match=re.escape(str(tmp_path / "pipe"))):
        model_files(tmp_path / "pipe")
