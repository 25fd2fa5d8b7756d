"""Concurrent commands on one install."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import SOME_PATCHES, dist_info, false_record_rows, invoke, on_some, run_nfpatch, snapshot

pytestmark = pytest.mark.fake_releases

PROCESSES = 32


def test_thirty_two_concurrent_commands_leave_a_consistent_install(site: Path) -> None:
    released = snapshot(site)
    commands = [
        [sys.executable, "-m", "nfpatch", *on_some(("apply", "revert")[number % 2]), "--site-packages", str(site)]
        for number in range(PROCESSES)
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen([*command, "--lock-timeout", "300"], text=True, **pipes) for command in commands]
    ended = [(*process.communicate(), process.returncode) for process in running]
    assert {code for _, _, code in ended} == {0}, [stderr for _, stderr, code in ended if code]

    left = snapshot(site)
    assert false_record_rows(site) == []
    if left != released:
        assert invoke("revert", "--site-packages", site).exit_code == 0
        reverted, _ = snapshot(site), invoke("apply", *SOME_PATCHES, "--site-packages", site)
        assert reverted == released
        assert snapshot(site) == left, "exactly the patched state"


def test_a_lock_timeout_names_the_process_that_holds_the_lock(site: Path) -> None:
    before = snapshot(site)
    lock = dist_info(site) / "nfpatch.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711 on trainer-7")
        held.flush()
        ran = run_nfpatch("apply", *SOME_PATCHES, "--lock-timeout", "0.2", "--site-packages", site)
    assert ran.returncode == 4
    assert "4711 on trainer-7" in ran.stderr
    assert "0.2 seconds" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    lock.unlink()
    assert snapshot(site) == before


def test_a_killed_process_does_not_keep_the_lock(site: Path) -> None:
    holder_script = (
        "import sys, time; from pathlib import Path\n"
        "from nfpatch.installs.find import find_install; from nfpatch.installs.lock import locked\n"
        "with locked(find_install(site_packages=Path(sys.argv[1])), 0):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", holder_script, str(site)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    blocked = run_nfpatch("apply", *SOME_PATCHES, "--lock-timeout", "0", "--site-packages", site)
    assert blocked.returncode == 4
    assert f"process {holder.pid} on {os.uname().nodename}" in blocked.stderr
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert run_nfpatch("apply", *SOME_PATCHES, "--lock-timeout", "0", "--site-packages", site).returncode == 0
    assert not (dist_info(site) / "nfpatch.lock").exists()


def test_status_needs_no_lock(site: Path) -> None:
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    with (dist_info(site) / "nfpatch.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run_nfpatch("status", "--site-packages", site).returncode == 0
