"""Upstream's own tests of several devices are witnesses: what they state holds on healed releases.

They are tests/test_common/test_multi_device_training.py (pull requests 1557, for 3.2.0, and 1571, for 3.2.1) and two
tests of tests/test_core.py (pull request 1460, for 3.1.5). `stated.py` tells each statement in our words, and where our
patches keep it in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from releases import RELEASES
from support import ALL_JOURNEYS, OLD_PYTHON, TORCHRUN, environment, invoke, run_ranks

HERE = Path(__file__).parent

# At least one release of each variant of the three patches from 1.5.0 on; all of them with `make journeys`
CHOSEN = ("1.5.0", "1.7.0", "1.7.4", "2.0.1", "3.0.0", "3.0.2", "3.1.5", "3.1.9", "3.2.1", "3.3.0")
FIRST_ON_LIGHTNING_2 = RELEASES.index("1.5.0")
ALL = RELEASES[FIRST_ON_LIGHTNING_2:]
# Those before need an interpreter with Lightning 1.6.5, as `make old-env` builds it.


def state(trees: dict[str, Path], python: Path, out: Path) -> tuple[int, list[dict[str, dict[str, str]]], str]:
    """The exit code of `stated.py` on two processes, what each of them found by release, and what was printed."""
    named = [f"{release}={tree}" for release, tree in trees.items()]
    return run_ranks([python, *TORCHRUN, HERE / "stated.py", out, *named], out, environment())


@pytest.mark.ddp
def test_what_upstream_states_holds_on_healed_releases(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    releases = ALL if ALL_JOURNEYS else CHOSEN
    check({release: released(release) for release in releases}, training_env, tmp_path / "out")


@pytest.mark.ddp
@pytest.mark.skipif(OLD_PYTHON is None, reason="NFPATCH_OLD_PYTHON names no interpreter with Lightning 1.6.5")
def test_what_upstream_states_holds_on_releases_before_lightning_2(
    released: Callable[[str], Path], tmp_path: Path
) -> None:
    trees = {release: released(release) for release in RELEASES[:FIRST_ON_LIGHTNING_2]}
    check(trees, Path(str(OLD_PYTHON)), tmp_path / "out")


def check(trees: dict[str, Path], python: Path, out: Path) -> None:
    """Heals these releases, and holds them against the statements."""
    for site in trees.values():
        assert invoke("apply", "--site-packages", site).exit_code == 0
    code, told, words = state(trees, python, out)
    failed = [
        f"{release}, {statement}: {found}"
        for rank in told
        for release, statements in rank.items()
        for statement, found in statements.items()
        if found != "holds"
    ]
    assert failed == []
    assert code == 0, words[-3000:]
    assert [list(rank) for rank in told] == [list(trees)] * 2
