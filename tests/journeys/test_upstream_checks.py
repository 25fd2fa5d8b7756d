"""What upstream's own multi-device tests check also holds on patched releases.

These are tests/test_common/test_multi_device_training.py (pull requests 1557, for 3.2.0, and 1571, for 3.2.1) and two
tests of tests/test_core.py (pull request 1460, for 3.1.5). `upstream_checks.py` has a function for each, whose
docstring says where the patches satisfy it differently than upstream does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from releases import RELEASES
from support import OLD_PYTHON, TORCHRUN, environment, invoke, run_ranks

HERE = Path(__file__).parent

FIRST_ON_LIGHTNING_2 = RELEASES.index("1.5.0")
# The earlier releases need an interpreter with Lightning 1.6.5, as `make old-env` builds it.


def run_checks(trees: dict[str, Path], python: Path, out: Path) -> tuple[int, list[dict[str, dict[str, str]]], str]:
    """The exit code of `upstream_checks.py` on two processes, their results by release, and the output."""
    named = [f"{release}={tree}" for release, tree in trees.items()]
    return run_ranks([python, *TORCHRUN, HERE / "upstream_checks.py", out, *named], out, environment())


@pytest.mark.ddp
@pytest.mark.long
def test_upstreams_checks_pass_on_patched_releases(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    check({release: released(release) for release in RELEASES[FIRST_ON_LIGHTNING_2:]}, training_env, tmp_path / "out")


@pytest.mark.ddp
@pytest.mark.skipif(OLD_PYTHON is None, reason="NFPATCH_OLD_PYTHON names no interpreter with Lightning 1.6.5")
def test_upstreams_checks_pass_on_patched_releases_that_need_lightning_1(
    released: Callable[[str], Path], tmp_path: Path
) -> None:
    trees = {release: released(release) for release in RELEASES[:FIRST_ON_LIGHTNING_2]}
    check(trees, Path(str(OLD_PYTHON)), tmp_path / "out")


def check(trees: dict[str, Path], python: Path, out: Path) -> None:
    """Patches these releases, and runs the checks on them."""
    for site in trees.values():
        assert invoke("apply", "--site-packages", site).exit_code == 0
    code, results, output = run_checks(trees, python, out)
    failed = [
        f"{release}, {name}: {result}"
        for rank in results
        for release, checks in rank.items()
        for name, result in checks.items()
        if result != "pass"
    ]
    assert failed == []
    assert code == 0, output[-3000:]
    assert [list(rank) for rank in results] == [list(trees)] * 2
