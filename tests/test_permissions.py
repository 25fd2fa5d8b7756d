"""Paths that may not be read or written: exit code 4, an error that names the path, and an unchanged tree.

Root may do everything, so as root each command runs in a forked process without root's capabilities: it may change what
root owns, and not what user 65534 owns, like any ordinary user.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from support import (
    MISSION,
    NBEATSX,
    PACKAGE_OF_MODULES,
    PLACEMENT,
    SOME_PATCHES,
    TFT,
    dist_info,
    false_record_rows,
    invoke,
    on_some,
    snapshot,
    states,
)

pytestmark = pytest.mark.fake_releases

IS_ROOT = os.geteuid() == 0
ANOTHER = 65534
NEEDED = ("nbeatsx-unused-out", "tft-static-encoder")
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give files to another owner")

Hook = Callable[[str, tuple[Any, ...]], None]


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


def give_up_capabilities() -> None:
    """Drop all capabilities: the process is an ordinary user who owns root's files."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def run_unprivileged(*arguments: object, hook: Optional[Hook] = None) -> Ended:
    """Run an nfpatch command in a forked process with the rights of an ordinary user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if IS_ROOT:
                give_up_capabilities()
            if hook is not None:
                sys.addaudithook(hook)
            result = invoke(*arguments)
            message = repr(result.exception) if result.exit_code == 1 else result.stderr
            os.write(writing, json.dumps([result.exit_code, result.stdout, message]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return Ended(*json.loads(report))


def needed_states(ended: Ended) -> set[str]:
    return {patch["state"] for patch in json.loads(ended.stdout)["patches"] if patch["id"] in NEEDED}


@pytest.fixture
def patched(site: Path) -> Path:
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    return site


@pytest.fixture
def patched_site(site: Path) -> Path:
    """An install with every patch that it needs."""
    assert invoke("apply", "--site-packages", site).exit_code == 0
    return site


@pytest.fixture(autouse=True)
def _make_everything_removable(tmp_path: Path) -> Iterator[None]:
    yield
    for parent, folders, _ in os.walk(tmp_path):
        for folder in (parent, *(os.path.join(parent, name) for name in folders)):
            if not os.path.islink(folder):
                os.chmod(folder, 0o755)


def everything(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


def forbid_writing(*folders: Path) -> None:
    for folder in folders:
        for path in everything(folder):
            path.chmod(0o555 if path.is_dir() else 0o444)


def check_refused(ended: Ended, site: Path, *words: str) -> None:
    assert ended.code == 4, ended
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended
    assert str(site) in ended.stderr
    for word in words:
        assert word in ended.stderr


def tree_with_times(folder: Path) -> tuple[object, ...]:
    """A tree with owners and times."""
    owners = {
        str(path): (path.lstat().st_uid, path.lstat().st_gid, path.lstat().st_mtime_ns) for path in everything(folder)
    }
    return snapshot(folder), owners


# --- no permission to write

UNWRITABLE: dict[str, Callable[[Path], list[Path]]] = {
    "all of site-packages": lambda site: [site],
    "the folder of the models": lambda site: [site / "neuralforecast" / "models"],
    "the dist-info folder": lambda site: [dist_info(site)],
    "the package": lambda site: [site / "neuralforecast"],
}


@pytest.mark.parametrize("where", UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_an_unwritable_path_is_an_error_that_names_it(
    command: str, where: Callable[[Path], list[Path]], site: Path
) -> None:
    if command == "revert":
        invoke("apply", *SOME_PATCHES, "--site-packages", site)
    forbid_writing(*where(site))
    before = snapshot(site)
    check_refused(run_unprivileged(*on_some(command), "--site-packages", site), site, "Permission denied")
    assert snapshot(site) == before
    status = run_unprivileged("status", "--json", "--site-packages", site)
    assert status.code == 0
    assert needed_states(status) == {"applicable" if command == "apply" else "applied"}
    assert run_unprivileged(*on_some(command), "--dry-run", "--site-packages", site).code == 0
    assert snapshot(site) == before


def test_a_folder_without_changes_may_be_read_only(site: Path) -> None:
    for folder in (site, site / "neuralforecast"):
        folder.chmod(0o555)
    before = snapshot(site)
    assert run_unprivileged("apply", *MISSION, "--site-packages", site).code == 0
    assert run_unprivileged("revert", "--site-packages", site).code == 0
    assert snapshot(site) == before


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_an_unwritable_folder_of_added_files_is_an_error_that_names_it(command: str, site: Path) -> None:
    if command == "revert":
        invoke("apply", *SOME_PATCHES, "--site-packages", site)
    folder = site / (PACKAGE_OF_MODULES if command == "revert" else "neuralforecast")
    folder.chmod(0o555)
    before = snapshot(site)
    check_refused(run_unprivileged(*on_some(command), "--site-packages", site), folder, "Permission denied")
    assert snapshot(site) == before


def test_an_unreadable_added_file_is_an_error_that_names_it(site: Path) -> None:
    invoke("apply", *SOME_PATCHES, "--site-packages", site)
    before = snapshot(site)
    (site / PLACEMENT).chmod(0o000)
    for command in ("apply", "status", "revert"):
        check_refused(
            run_unprivileged(*on_some(command), "--site-packages", site), site / PLACEMENT, "Permission denied"
        )
    (site / PLACEMENT).chmod(0o644)
    assert snapshot(site) == before


def test_read_only_files_in_writable_folders_are_patched_and_remain_read_only(site: Path) -> None:
    for path in everything(site):
        if path.is_file():
            path.chmod(0o444)
    before = snapshot(site)
    assert run_unprivileged("apply", *SOME_PATCHES, "--site-packages", site).code == 0
    assert {stat.S_IMODE((site / file).stat().st_mode) for file in (NBEATSX, TFT, PLACEMENT)} == {0o444}
    assert false_record_rows(site) == []
    assert run_unprivileged("revert", "--site-packages", site).code == 0
    assert snapshot(site) == before


@pytest.mark.parametrize("command", ["apply", "apply --json", "status", "status --check"])
def test_a_read_only_patched_install_is_no_error(command: str, patched_site: Path) -> None:
    forbid_writing(patched_site)
    before = tree_with_times(patched_site)
    ended = run_unprivileged(*command.split(), *("--site-packages", patched_site))
    assert (ended.code, ended.stderr) == (0, ""), ended
    assert tree_with_times(patched_site) == before


@as_root
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_an_install_of_another_owner_is_refused_and_unchanged(command: str, site: Path) -> None:
    if command == "revert":
        invoke("apply", *SOME_PATCHES, "--site-packages", site)
    for path in everything(site):
        os.chown(path, ANOTHER, ANOTHER)
    before = tree_with_times(site)
    check_refused(run_unprivileged(*on_some(command), "--site-packages", site), site, "Permission denied")
    assert tree_with_times(site) == before
    assert run_unprivileged("status", "--site-packages", site).code == 0


@as_root
def test_revert_restores_files_of_another_owner_with_content_mode_and_time(site: Path) -> None:
    for file in (NBEATSX, TFT):
        os.chown(site / file, ANOTHER, ANOTHER)
        os.utime(site / file, (1_500_000_000, 1_500_000_000))
    before = snapshot(site)
    assert run_unprivileged("apply", *SOME_PATCHES, "--site-packages", site).code == 0
    assert run_unprivileged("revert", "--site-packages", site).code == 0
    assert snapshot(site) == before
    assert [(site / file).stat().st_mtime for file in (NBEATSX, TFT)] == [1_500_000_000, 1_500_000_000]


@as_root
def test_root_preserves_owner_and_group(site: Path) -> None:
    for path in everything(site):
        os.chown(path, ANOTHER, ANOTHER - 1)
    before = tree_with_times(site)
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    for path in (*everything(site / "neuralforecast"), dist_info(site) / "RECORD"):
        assert (path.stat().st_uid, path.stat().st_gid) == (ANOTHER, ANOTHER - 1), path
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert (snapshot(site), owners(site)) == (before[0], dict.fromkeys(owners(site), (ANOTHER, ANOTHER - 1)))


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_uid, path.lstat().st_gid) for path in everything(folder)}


def test_an_unreadable_lock_file_is_an_error_that_names_it(site: Path) -> None:
    lock = dist_info(site) / "nfpatch.lock"
    lock.touch(mode=0o444)
    lock.chmod(0o000)
    before = snapshot_of_the_readable(site)
    check_refused(run_unprivileged("apply", *SOME_PATCHES, "--site-packages", site), lock)
    assert snapshot_of_the_readable(site) == before


# --- no permission to read

UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "a target file": lambda site: site / TFT,
    "RECORD": lambda site: dist_info(site) / "RECORD",
    "METADATA": lambda site: dist_info(site) / "METADATA",
    "the folder of the models": lambda site: site / "neuralforecast" / "models",
    "the dist-info folder": dist_info,
}


@pytest.mark.parametrize("what", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("command", ["apply", "status", "revert"])
def test_an_unreadable_path_is_an_error_that_names_it(command: str, what: Callable[[Path], Path], site: Path) -> None:
    path = what(site)
    mode = stat.S_IMODE(path.stat().st_mode)
    before = snapshot(site)
    path.chmod(0o000)
    check_refused(run_unprivileged(*on_some(command), "--site-packages", site), path, "Permission denied")
    path.chmod(mode)
    assert snapshot(site) == before


@pytest.mark.parametrize("name", ["nfpatch", "nfpatch/ledger.json"])
@pytest.mark.parametrize("command", ["apply", "status", "revert"])
def test_an_unreadable_file_of_nfpatch_is_an_error_that_names_it(command: str, name: str, patched: Path) -> None:
    path = dist_info(patched) / name
    mode = stat.S_IMODE(path.stat().st_mode)
    before = snapshot(patched)
    path.chmod(0o000)
    check_refused(run_unprivileged(*on_some(command), "--site-packages", patched), path, "Permission denied")
    path.chmod(mode)
    assert snapshot(patched) == before


def test_a_strict_umask_does_not_change_file_modes(site: Path) -> None:
    before = snapshot(site)
    previous = os.umask(0o077)
    try:
        assert run_unprivileged("apply", *SOME_PATCHES, "--site-packages", site).code == 0
        after = snapshot(site)
        for path in (NBEATSX, TFT, f"{dist_info(site).name}/RECORD"):
            assert after[path].mode == before[path].mode
        assert run_unprivileged("revert", "--site-packages", site).code == 0
    finally:
        os.umask(previous)
    assert snapshot(site) == before


def snapshot_of_the_readable(site: Path) -> dict[str, object]:
    return {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in everything(site)}


# --- file systems that lack features


def failing(event_to_fail: str, number: int) -> Hook:
    """Makes every such operation fail, as on a file system without it."""

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == event_to_fail:
            raise OSError(number, os.strerror(number), *([os.fspath(details[0])] if "flock" not in event else []))

    return hook


def each_folder_is_a_file_system(event: str, details: tuple[Any, ...]) -> None:
    if event in ("os.rename", "os.link") and os.path.dirname(details[0]) != os.path.dirname(details[1]):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fspath(details[0]), None, os.fspath(details[1]))


def check_round_trip(site: Path, hook: Hook) -> None:
    """Check that apply and revert work, and restore bytes, modes and times."""
    (site / TFT).chmod(0o640)
    os.utime(site / TFT, ns=(1_500_000_000_123_456_789, 1_500_000_000_123_456_789))
    cache = (site / TFT).parent / "__pycache__"
    cache.mkdir()
    (cache / "tft.cpython-311.pyc").write_bytes(b"compiled")
    before = snapshot(site), file_times(site)
    applied = run_unprivileged("apply", *SOME_PATCHES, "--json", "--site-packages", site, hook=hook)
    assert (applied.code, applied.stderr) == (0, "")
    assert needed_states(applied) == {"applied"}
    assert false_record_rows(site) == []
    reverted = run_unprivileged("revert", "--site-packages", site, hook=hook)
    assert (reverted.code, reverted.stderr) == (0, "")
    assert (snapshot(site), file_times(site)) == before


def file_times(site: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in everything(site) if path.is_file()}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS])
def test_a_file_system_without_hard_links_works(number: int, site: Path) -> None:
    check_round_trip(site, failing("os.link", number))


def test_an_install_across_several_file_systems_works(site: Path) -> None:
    check_round_trip(site, each_folder_is_a_file_system)


@pytest.mark.parametrize("command", ["apply", "revert"])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_refused(number: int, command: str, site: Path) -> None:
    if command == "revert":
        invoke("apply", *SOME_PATCHES, "--site-packages", site)
    before = snapshot(site)
    ended = run_unprivileged(*on_some(command), "--site-packages", site, hook=failing("fcntl.flock", number))
    check_refused(ended, site, os.strerror(number))
    assert snapshot(site) == before


# --- real mounts, in a mount namespace


@pytest.fixture(scope="session")
def unshare() -> list[str]:
    """The start of a command that runs in its own mount namespace."""
    command = ["unshare", "--mount", *([] if IS_ROOT else ["--map-root-user"])]
    trial = 'd=$(mktemp -d) && mount -t tmpfs none "$d" && umount "$d"; s=$?; rmdir "$d"; exit $s'
    try:
        subprocess.run([*command, "sh", "-c", trial], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("requires permission to mount")
    return command


def mounted(unshare: list[str], site: Path, script: str) -> str:
    """The output of a shell script with the site-packages folder in $S and nfpatch as `n COMMAND...`."""
    head = f'set -eu; S={site}; n() {{ "{sys.executable}" -m nfpatch "$@" --site-packages "$S"; }}\n'
    shell = subprocess.run([*unshare, "bash", "-c", head + script], capture_output=True, text=True, check=False)
    assert shell.returncode == 0, shell
    return shell.stdout


READ_ONLY = 'mount --bind "$P" "$P"; mount -o remount,bind,ro "$P"\n'


@pytest.mark.parametrize("where", ["", "neuralforecast/models", "*.dist-info"])
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_read_only_mount_is_an_error_that_names_the_path(
    command: str, where: str, site: Path, unshare: list[str]
) -> None:
    if command == "revert":
        invoke("apply", *SOME_PATCHES, "--site-packages", site)
    before = snapshot(site)
    named = " ".join(on_some(command))
    script = f'P=$(echo "$S"/{where}); {READ_ONLY} set +e; n status >&2; echo $?; n {named} 2>&1; echo $?'
    status_code, *lines, code = mounted(unshare, site, script).splitlines()
    assert status_code == "0"
    check_refused(Ended(int(code), "", "\n".join(lines)), site, "Read-only file system")
    assert snapshot(site) == before


def test_a_patched_install_on_a_read_only_mount_is_no_error(patched_site: Path, unshare: list[str]) -> None:
    before = tree_with_times(patched_site)
    mounted(unshare, patched_site, f'P="$S"; {READ_ONLY} n apply; n status; n status --check')
    assert tree_with_times(patched_site) == before


def test_folders_on_another_file_system_are_patched_and_reverted(
    site: Path, unshare: list[str], tmp_path: Path
) -> None:
    before = snapshot(site)
    script = f"""
        M="$S/neuralforecast/models"; cp -a "$M" "$S/../copy"
        mount -t tmpfs -o mode=755 none "$M"; cp -a "$S/../copy/." "$M"
        n apply {" ".join(SOME_PATCHES)} >&2; n status >&2; grep -c "if self.stat_exog_size > 0:" "$M/tft.py"
        n revert >&2; diff -r "$M" "$S/../copy" >&2
        test "$(stat -c %a%Y "$M/tft.py")" = "$(stat -c %a%Y "$S/../copy/tft.py")"
    """
    assert mounted(unshare, site, script).strip() == "1"
    assert snapshot(site) == before
    shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_full_file_system_is_an_error_that_names_the_path(
    command: str, site: Path, unshare: list[str], tmp_path: Path
) -> None:
    if command == "revert":
        invoke("apply", *SOME_PATCHES, "--site-packages", site)
    script = f"""
        D=$(echo "$S"/*.dist-info); cp -a "$D" "$S/../info"
        mount -t tmpfs -o mode=755,size=1m none "$D"; cp -a "$S/../info/." "$D"
        set +e; head -c 2m /dev/zero > "$D/filler" 2>/dev/null
        n {" ".join(on_some(command))} 2>&1; echo $?
        rm "$D/filler"; diff -r "$D" "$S/../info" >&2 || echo changed
    """
    *lines, code = mounted(unshare, site, script).splitlines()
    check_refused(Ended(int(code), "", "\n".join(lines)), site, "No space left on device")
    assert set(NEEDED) <= states(site).keys()
