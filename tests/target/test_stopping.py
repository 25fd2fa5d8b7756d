"""Early stopping follows Lightning's rule."""

from __future__ import annotations

import math

import pytest

from nfpatch.target.stages import stops_after


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([3.0, 2.0, 1.0], 1, None),
        ([1.0, 2.0], 1, 2),
        ([1.0, 1.0], 1, 2),  # equal is no improvement
        ([1.0, 2.0, 0.5, 2.0, 2.0], 2, 5),
        ([1.0, math.nan], 5, 2),
        ([], 1, None),
    ],
)
def test_it_stops_after_this_number_of_losses_without_improvement(
    losses: list[float], patience: int, expected: int | None
) -> None:
    assert stops_after(losses, patience) == expected
