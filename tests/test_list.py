"""`nfpatch list`, run as a command."""

from __future__ import annotations

import pytest
from releases import RELEASES
from support import NBEATSX, TFT, answer, invoke

from nfpatch.catalog import DEFAULT_GROUPS, GROUPS, load_catalog


def test_list_names_each_patch_with_model_file_releases_and_reference() -> None:
    result = invoke("list")
    assert result.exit_code == 0
    for words in ("nbeatsx-unused-out", "NBEATSx", NBEATSX, "1.2.0 - 1.7.5", "pull/1168"):
        assert words in result.stdout
    for words in ("tft-static-encoder", "TFT", TFT, "1.0.0 - 1.7.4", "pull/1114"):
        assert words in result.stdout


def test_list_can_show_one_group() -> None:
    catalog = load_catalog()
    document = answer("list")
    assert [group["name"] for group in document["groups"]] == [*GROUPS]
    assert [group["name"] for group in document["groups"] if group["default"]] == [*DEFAULT_GROUPS]
    assert {patch["id"]: patch["group"] for patch in document["patches"]} == {p.id: p.group for p in catalog.patches}
    assert all(patch["requires"] == list(catalog.select([patch["id"]])[0].requires) for patch in document["patches"])
    spark = [patch.id for patch in catalog.patches if patch.group == "spark"]
    assert [patch["id"] for patch in answer("list", "--group", "spark")["patches"]] == spark
    headings = [line for line in invoke("list").stdout.splitlines() if line.partition(":")[0] in GROUPS]
    assert [line.partition(":")[0] for line in headings] == [*GROUPS]
    unknown = invoke("list", "--group", "sparks")
    assert unknown.exit_code == 2
    assert "spark?" in unknown.stderr


@pytest.mark.parametrize("release", ["1.0.0", "1.7.4", "3.3.0"])
def test_list_can_show_the_patches_of_a_release(release: str) -> None:
    catalog = load_catalog()
    needed = [patch.id for patch in catalog.patches if catalog.files_of(patch, release)]
    assert [patch["id"] for patch in answer("list", "--release", release)["patches"]] == needed
    spark = [patch.id for patch in catalog.groups["spark"] if patch.id in needed]
    assert [patch["id"] for patch in answer("list", "--release", release, "--group", "spark")["patches"]] == spark
    shown = invoke("list", "--release", release).stdout
    assert [patch.id for patch in catalog.patches if f"\n  {patch.id}\n" in shown] == needed


def test_list_as_json_names_every_affected_release() -> None:
    releases = {patch["id"]: patch["releases"] for patch in answer("list")["patches"]}
    assert releases["tft-static-encoder"] == [release for release in RELEASES if release <= "1.7.4"]
    assert releases["nbeatsx-unused-out"] == [release for release in RELEASES if "1.2.0" <= release <= "1.7.5"]
