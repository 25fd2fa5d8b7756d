"""Early stopping stops where Lightning's rule says so."""

from __future__ import annotations

import math

import pytest

from nfpatch.target.stages import stops_after


@pytest.mark.parametrize(
    ("losses", "patience", "due"),
    [
        ([3.0, 2.0, 1.0], 1, None),
        ([1.0, 2.0], 1, 2),
        ([1.0, 1.0], 1, 2),  # as good is not better
        ([1.0, 2.0, 0.5, 2.0, 2.0], 2, 5),
        ([1.0, math.nan], 5, 2),
        ([], 1, None),
    ],
)
def test_it_stops_after_as_many_losses_that_are_no_better(losses: list[float], patience: int, due: int | None) -> None:
    assert stops_after(losses, patience) == due
