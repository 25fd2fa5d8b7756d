"""A release that nfpatch does not know: the patches that fit its code, compared with those of the full catalog."""

from __future__ import annotations

import functools
from collections import Counter

import next_release
import pytest
from releases import RELEASES
from support import EACH_RELEASE

from nfpatch.catalog import Catalog, load_catalog

pytestmark = pytest.mark.wheels

SUBJECTS = RELEASES[RELEASES.index(next_release.FIRST) :]
EACH_SUBJECT = EACH_RELEASE[-len(SUBJECTS) :]


@functools.cache
def catalog() -> Catalog:
    return load_catalog()


@functools.cache
def outcomes_for(release: str) -> list[next_release.Outcome]:
    return next_release.outcomes_for(catalog(), release)


@pytest.mark.parametrize("release", EACH_SUBJECT)
def test_no_unneeded_patch_is_applied(release: str) -> None:
    assert [each.patch for each in outcomes_for(release) if each.outcome == next_release.WRONG] == []


@pytest.mark.parametrize("release", EACH_SUBJECT)
def test_every_needed_patch_has_an_outcome_and_differences_have_a_reason(release: str) -> None:
    outcomes = outcomes_for(release)
    needed = [patch.id for patch in catalog().patches if catalog().files_of(patch, release)]
    assert [each.patch for each in outcomes] == needed
    for each in outcomes:
        assert (each.outcome == next_release.OTHER) == ((release, each.patch) in next_release.WHY_OTHER)
        assert (each.outcome == next_release.REFUSED) == bool(each.reason)


@pytest.mark.long
def test_most_patches_fit_and_the_page_is_up_to_date() -> None:
    outcomes = [each for release in SUBJECTS for each in outcomes_for(release)]
    total = Counter(each.outcome for each in outcomes)
    assert total[next_release.SAME] > 0.9 * total.total()
    assert next_release.PAGE.read_text(encoding="utf-8") == next_release.page_of(outcomes)
