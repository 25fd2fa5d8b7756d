"""`list`, `status`, `apply` and `revert`, run as commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    BASIC_PATCHES,
    NBEATSX,
    SOME_PATCHES,
    TFT,
    all_states,
    answer,
    dist_info,
    false_record_rows,
    invoke,
    run_nfpatch,
    snapshot,
    states,
    unlisted_files,
)

from nfpatch.catalog import GROUPS, load_catalog
from nfpatch.errors import RefusedError
from nfpatch.installs.find import find_install
from nfpatch.patching import operations

pytestmark = pytest.mark.fake_releases

BOTH = {"nbeatsx-unused-out", "tft-static-encoder"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def renamed_release(site: Path, version: str) -> Path:
    """The same files, with the version number of another release."""
    old = dist_info(site)
    edit(old / "METADATA", "Version: 1.7.4", f"Version: {version}")
    edit(old / "RECORD", "neuralforecast-1.7.4.dist-info", f"neuralforecast-{version}.dist-info")
    old.rename(site / f"neuralforecast-{version}.dist-info")
    return site


# --- status ---


def test_status_names_the_install_and_what_to_do(site: Path) -> None:
    result = invoke("status", "--site-packages", site)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"neuralforecast 1.7.4 in {site}" in result.stdout
    needed = sum(bool(load_catalog().files_of(patch, "1.7.4")) for patch in load_catalog().default)
    assert re.search(rf"^{needed} patches .*`nfpatch apply`", result.stdout, re.MULTILINE)


def test_status_as_json_has_the_promised_shape(site: Path) -> None:
    document = answer("status", "--site-packages", site)
    assert set(document) == {"schema_version", "neuralforecast", "patches", "skipped", "changed"}
    assert document["neuralforecast"] == {
        "version": "1.7.4",
        "site_packages": str(site),
        "package": str(site / "neuralforecast"),
    }
    assert document["changed"] == []
    assert {frozenset(patch) for patch in document["patches"]} == {
        frozenset(("id", "group", "state", "files", "reason", "requires", "variant_of"))
    }
    files = {patch["id"]: patch["files"] for patch in document["patches"]}
    assert [*files] == [patch.id for patch in load_catalog().patches]
    assert (files["nbeatsx-unused-out"], files["tft-static-encoder"]) == ([NBEATSX], [TFT])
    assert files["scaler-revin"] == [f"neuralforecast/common/_base_{name}.py" for name in ("recurrent", "windows")]
    groups = {patch["id"]: patch["group"] for patch in document["patches"]}
    assert groups == {patch.id: patch.group for patch in load_catalog().patches}


@pytest.mark.parametrize("columns", [50, 60, 80, 200])
def test_status_groups_patches_fits_the_terminal_and_counts_those_not_needed(
    columns: int, released: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    site = released("3.3.0")
    states = all_states(site)
    for options, listed in ((("--all",), set(states)), ((), {id_ for id_ in states if states[id_] != "not-needed"})):
        _, *lines = invoke("status", *options, "--site-packages", site).stdout.splitlines()
        assert all(len(line) <= columns for line in lines)
        assert [line.partition(":")[0] for line in lines if line.partition(":")[0] in GROUPS] == [*GROUPS]
        rows = [line.split() for line in lines]
        assert {words[0]: words[1] for words in rows if words[:1] and words[0] in states} == {
            id_: states[id_] for id_ in listed
        }
        counted = sum(int(number) for number in re.findall(r"^  (\d+) not needed$", "\n".join(lines), re.MULTILINE))
        assert counted == len(states) - len(listed)


def test_status_shows_the_named_patches_without_the_skipped_ones(site: Path) -> None:
    where = ("--site-packages", site)
    spark = [patch.id for patch in load_catalog().patches if patch.group == "spark"]
    assert [patch["id"] for patch in answer("status", "spark", *where)["patches"]] == spark
    document = answer("status", *BASIC_PATCHES, "spark", "--skip", spark[0], *where)
    assert [patch["id"] for patch in document["patches"]] == [*BASIC_PATCHES[:1], *spark[1:], *BASIC_PATCHES[1:]]
    assert [skipped["id"] for skipped in document["skipped"]] == [spark[0]]
    assert f"skipped: {spark[0]}" in invoke("status", "spark", "--skip", spark[0], *where).stdout
    both = invoke("status", "--all", "--json", *where)
    assert (both.exit_code, json.loads(both.stdout)["exit_code"]) == (2, 2)


def test_status_check_looks_at_the_default_groups_unless_another_is_named(released: Callable[[str], Path]) -> None:
    site = released("3.3.0")
    where = ("--check", "--site-packages", site)
    assert invoke("apply", "unused-parameters", "--site-packages", site).exit_code == 0
    others = ("--skip", "multi-process", "--skip", "search")
    assert [invoke("status", *more, *where).exit_code for more in ((), others, ("spark",))] == [1, 0, 1]


def test_status_check_fails_until_all_default_patches_are_applied(site: Path) -> None:
    assert invoke("status", "--check", "--site-packages", site).exit_code == 1
    assert invoke("apply", *BASIC_PATCHES, "--site-packages", site).exit_code == 0
    assert invoke("status", "--check", "--site-packages", site).exit_code == 1
    assert invoke("apply", "--site-packages", site).exit_code == 0
    assert invoke("status", "--check", "--site-packages", site).exit_code == 0


def test_status_writes_nothing(site: Path) -> None:
    before = snapshot(site)
    invoke("status", "--site-packages", site)
    assert snapshot(site) == before


# --- apply ---


def test_apply_patches_and_names_the_changed_files(site: Path) -> None:
    result = invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 files changed" in result.stdout
    assert str(site / TFT) in result.stdout
    assert states(site, BASIC_PATCHES) == dict.fromkeys(BOTH, "applied")


def test_apply_as_json_lists_the_changed_files(site: Path) -> None:
    document = answer("apply", *BASIC_PATCHES, "--site-packages", site)
    assert document["changed"] == [NBEATSX, TFT]
    assert {patch["state"] for patch in document["patches"] if patch["id"] in BASIC_PATCHES} == {"applied"}


@pytest.mark.parametrize("release", ["1.7.4", "3.3.0"])
def test_apply_and_revert_report_the_states_that_status_finds_next(
    released: Callable[[str], Path], release: str
) -> None:
    site = released(release)
    for command in (["apply", "all"], ["revert", "predict-on-one-device"], ["apply"], ["revert", "search"], ["revert"]):
        reported = answer(*command, "--site-packages", site)["patches"]
        assert reported == answer("status", "--site-packages", site)["patches"], command


def test_apply_of_one_patch_changes_only_its_file(site: Path) -> None:
    tft = (site / TFT).read_bytes()
    assert answer("apply", "nbeatsx-unused-out", "--site-packages", site)["changed"] == [NBEATSX]
    assert (site / TFT).read_bytes() == tft
    assert states(site, BASIC_PATCHES) == {"nbeatsx-unused-out": "applied", "tft-static-encoder": "applicable"}
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])


def test_dry_run_prints_a_diff_that_patch_accepts_and_writes_nothing(site: Path, tmp_path: Path) -> None:
    """The diff includes files that `apply` adds and `revert` removes."""
    released = snapshot(site / "neuralforecast")
    copy = tmp_path / "by-hand"
    shutil.copytree(site, copy)
    for command in ("apply", "revert"):
        before = snapshot(site)
        result = invoke(command, *SOME_PATCHES, "--dry-run", "--site-packages", site)
        assert result.exit_code == 0
        assert snapshot(site) == before
        assert ("--- /dev/null\n" if command == "apply" else "+++ /dev/null\n") in result.stdout
        subprocess.run(["patch", "-p1", "--quiet"], cwd=copy, input=result.stdout, text=True, check=True)
        invoke(command, *SOME_PATCHES, "--site-packages", site)
        assert snapshot(copy / "neuralforecast") == snapshot(site / "neuralforecast")
    assert snapshot(site / "neuralforecast") == released


def test_dry_run_as_json_has_the_diff_and_changes_nothing(site: Path) -> None:
    document = answer("apply", *BASIC_PATCHES, "--dry-run", "--site-packages", site)
    assert document["changed"] == []
    assert "+        if self.stat_exog_size > 0:" in document["diff"]
    assert "applied" not in {patch["state"] for patch in document["patches"]}


def test_an_opt_in_patch_is_applied_by_its_own_id_only(released: Callable[[str], Path]) -> None:
    site = released("3.3.0")

    def order() -> str:
        return all_states(site)["multivariate-one-order"]

    for names in ((), ("multi-process",), ("all",)):
        invoke("apply", *names, "--site-packages", site)
        assert order() == "opt-in"
    assert invoke("status", "--check", "--site-packages", site).exit_code == 0
    named = ("multivariate-one-order", "--check", "--site-packages", site)
    assert invoke("status", *named).exit_code == 1
    patched = snapshot(site)

    assert answer("apply", "multivariate-one-order", "--site-packages", site)["changed"] == [
        "neuralforecast/common/_base_model.py"
    ]
    assert order() == "applied"
    assert invoke("status", *named).exit_code == 0
    with_order = snapshot(site)
    assert answer("apply", "--site-packages", site)["changed"] == []
    assert snapshot(site) == with_order, "`apply` without names keeps it applied"
    invoke("revert", "multivariate-one-order", "--site-packages", site)
    assert snapshot(site) == patched
    listed = {patch["id"]: patch["opt_in"] for patch in answer("list")["patches"]}
    assert [patch for patch, opt_in in listed.items() if opt_in] == ["multivariate-one-order", "predict-on-all-devices"]


def test_spark_patches_are_applied_by_the_name_of_their_group_only(released: Callable[[str], Path]) -> None:
    site = released("3.3.0")
    catalog = load_catalog()
    needed = {group: [p.id for p in catalog.groups[group] if catalog.files_of(p, "3.3.0")] for group in GROUPS}
    invoke("apply", "--site-packages", site)
    found = all_states(site)
    assert {found[patch] for patch in needed["spark"]} == {"applicable"}
    assert {found[patch] for patch in needed["search"]} == {"applied"}
    assert invoke("apply", "spark", "--site-packages", site).exit_code == 0
    assert {all_states(site)[patch] for patch in needed["spark"]} == {"applied"}
    assert answer("revert", "spark", "--site-packages", site)["changed"]
    assert all_states(site) == found


def test_apply_skips_what_is_named_and_reports_it(site: Path) -> None:
    kept = ("--skip", "multi-process", "--skip", "search", "--skip", "tft-static-context")
    document = answer("apply", *kept, "--site-packages", site)
    catalog = load_catalog()
    skipped = {p.id for p in catalog.patches if p.group in ("multi-process", "search") or p.id == "tft-static-context"}
    assert {patch["id"] for patch in document["skipped"]} == skipped
    assert {patch["id"] for patch in document["patches"]} == {patch.id for patch in catalog.patches}
    applied = {id_ for id_, state in all_states(site).items() if state == "applied"}
    assert applied == {p.id for p in catalog.default if catalog.files_of(p, "1.7.4")} - skipped
    assert "skipped: tft-static-context" in invoke("apply", *kept, "--site-packages", site).stdout
    contradiction = invoke("apply", "tft-static-context", "--skip", "unused-parameters", "--site-packages", site)
    assert contradiction.exit_code == 2


REQUIRING = """
from nfpatch.catalog import Patch
from nfpatch.codemod import Change, Rewrite

REWRITE = Rewrite((Change("", "import torch", "import torch\\nimport math"),))

patch = Patch(
    id="mine", summary="requires another", model="MLP", group="ours", upstream="", unaffected={}, cases=(),
    variants={"==1.7.4": {"neuralforecast/models/mlp.py": REWRITE}}, requires=("nbeatsx-unused-out",),
)
"""


def test_a_required_patch_is_applied_along_and_its_revert_takes_the_other_with_it(site: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(REQUIRING)
    where = ("--patches", tmp_path / "own", "--site-packages", site)
    before = snapshot(site)

    document = answer("apply", "mine", "--allow-modified", *where)

    assert document["changed"] == ["neuralforecast/models/mlp.py", NBEATSX]
    assert [patch["id"] for patch in document["brought_along"]] == ["nbeatsx-unused-out"]
    invoke("revert", *where)
    result = invoke("apply", "mine", "--allow-modified", *where)
    assert "brought along: nbeatsx-unused-out" in result.stdout
    document = answer("revert", "nbeatsx-unused-out", *where)
    assert document["changed"] == ["neuralforecast/models/mlp.py", NBEATSX]
    assert [patch["id"] for patch in document["brought_along"]] == ["mine"]
    assert snapshot(site) == before
    assert "brought along: mine" not in invoke("revert", "nbeatsx-unused-out", *where).stdout


def test_apply_of_patches_that_are_not_needed_names_the_release_that_has_the_fix(
    released: Callable[[str], Path],
) -> None:
    site = released("3.3.0")
    before = snapshot(site)
    result = invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert result.exit_code == 0
    assert "1.7.6" in result.stdout
    assert snapshot(site) == before


def test_nfpatchs_own_files_are_listed_in_record(site: Path) -> None:
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])
    ledger = json.loads((dist_info(site) / "nfpatch" / "ledger.json").read_text())
    assert set(ledger["files"]) == {NBEATSX, TFT}


def test_a_hard_linked_copy_of_a_patched_file_is_unchanged(site: Path, tmp_path: Path) -> None:
    twin = tmp_path / "cache.py"
    os.link(site / TFT, twin)
    before = (twin.read_bytes(), twin.stat().st_mode, twin.stat().st_mtime_ns)
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert not (site / TFT).samefile(twin)
    invoke("revert", "--site-packages", site)
    assert (twin.read_bytes(), twin.stat().st_mode, twin.stat().st_mtime_ns) == before


def test_a_symbolic_link_is_replaced_not_followed_and_restored_by_revert(site: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache.py"
    (site / TFT).rename(target)
    (site / TFT).symlink_to(target)
    content, before = target.read_bytes(), snapshot(site)
    assert invoke("apply", *BASIC_PATCHES, "--site-packages", site).exit_code == 0
    assert not (site / TFT).is_symlink()
    assert target.read_bytes() == content
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_a_folder_that_links_out_of_site_packages_is_refused(site: Path, tmp_path: Path) -> None:
    models = site / "neuralforecast" / "models"
    shutil.move(models, tmp_path / "elsewhere")
    models.symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    result = invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert result.exit_code == 3
    assert "symbolic link" in result.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("mode", [0o444, 0o664, 0o755])
def test_the_mode_of_a_file_survives_apply_and_revert(site: Path, mode: int) -> None:
    (site / TFT).chmod(mode)
    before = snapshot(site)
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert (site / TFT).stat().st_mode & 0o777 == mode
    invoke("revert", "--site-packages", site)
    assert snapshot(site) == before


# --- files that are not the released ones ---


def test_a_modified_file_is_refused_and_nothing_is_changed(site: Path) -> None:
    edit(site / TFT, "import torch\n", "import torch\nimport math\n")
    before = snapshot(site)
    assert states(site, BASIC_PATCHES) == {"nbeatsx-unused-out": "applicable", "tft-static-encoder": "modified"}
    result = invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert result.exit_code == 3
    assert str(site / TFT) in result.stderr
    assert "--allow-modified" in result.stderr
    assert snapshot(site) == before


def test_the_other_patch_can_still_be_applied_by_name(site: Path) -> None:
    edit(site / TFT, "import torch\n", "import torch\nimport math\n")
    assert invoke("apply", "nbeatsx-unused-out", "--site-packages", site).exit_code == 0


def test_allow_modified_patches_a_modified_file_and_revert_restores_it(site: Path) -> None:
    edit(site / TFT, "import torch\n", "import torch\nimport math\n")
    before = snapshot(site)
    assert invoke("apply", *BASIC_PATCHES, "--allow-modified", "--site-packages", site).exit_code == 0
    assert states(site, BASIC_PATCHES) == dict.fromkeys(BOTH, "applied")
    assert "import math\n" in (site / TFT).read_text()
    assert "        if self.stat_exog_size > 0:\n            self.static_encoder" in (site / TFT).read_text()
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_allow_modified_still_refuses_where_the_codemod_does_not_match(site: Path) -> None:
    edit(site / TFT, "class TFT(", "class MyTFT(")
    before = snapshot(site)
    result = invoke("apply", *BASIC_PATCHES, "--allow-modified", "--site-packages", site)
    assert result.exit_code == 3
    assert "`TFT`" in result.stderr
    assert snapshot(site) == before


def test_a_used_layer_is_refused_even_with_allow_modified(site: Path) -> None:
    edit(
        site / NBEATSX,
        "    def create_stack(",
        "    def width(self):\n        return self.out\n\n    def create_stack(",
    )
    before = snapshot(site)
    result = invoke("apply", "nbeatsx-unused-out", "--allow-modified", "--site-packages", site)
    assert result.exit_code == 3
    assert "`out`" in result.stderr
    assert snapshot(site) == before


def test_a_missing_file_is_refused(site: Path) -> None:
    (site / TFT).unlink()
    assert states(site)["tft-static-encoder"] == "modified"
    result = invoke("apply", *BASIC_PATCHES, "--allow-modified", "--site-packages", site)
    assert result.exit_code == 3
    assert TFT in result.stderr


@pytest.mark.parametrize("version", ["3.4.0", "1.7.4.1"])
def test_an_unknown_release_with_fitting_code_is_patched_with_allow_modified(version: str, site: Path) -> None:
    renamed_release(site, version)
    before = snapshot(site)
    assert states(site, BASIC_PATCHES) == dict.fromkeys(BOTH, "modified")
    variants = {patch["id"]: patch["variant_of"] for patch in answer("status", "--site-packages", site)["patches"]}
    assert [variants[patch] for patch in BASIC_PATCHES] == ["1.7.4 - 1.7.5", "1.7.4"]
    refused = invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert refused.exit_code == 3
    assert version in refused.stderr
    assert f"`nfpatch apply {' '.join(BASIC_PATCHES)} --allow-modified --site-packages {site}`" in refused.stderr
    assert snapshot(site) == before
    assert invoke("apply", *BASIC_PATCHES, "--allow-modified", "--site-packages", site).exit_code == 0
    assert states(site, BASIC_PATCHES) == dict.fromkeys(BOTH, "applied")
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_an_unknown_release_that_the_code_does_not_fit_is_refused(site: Path) -> None:
    renamed_release(site, "3.4.0")
    edit(site / TFT, "self.static_encoder = ", "self.encoder = ")
    before = snapshot(site)
    assert states(site, BASIC_PATCHES)["tft-static-encoder"] == "unknown-release"
    for options in ([], ["--allow-modified"]):
        assert invoke("apply", "tft-static-encoder", *options, "--site-packages", site).exit_code == 3
    assert snapshot(site) == before


# --- apply --keep-going ---


def test_keep_going_applies_the_patches_that_fit_and_lists_the_others(site: Path) -> None:
    edit(site / TFT, "self.static_encoder = ", "self.encoder = ")
    edit(site / NBEATSX, "import torch\n", "import torch\nimport math\n")
    before = snapshot(site)
    command = ("apply", *BASIC_PATCHES, "--allow-modified", "--site-packages", site)
    refused = invoke(*command)
    assert refused.exit_code == 3
    assert "self.static_encoder = " in refused.stderr
    assert (
        f"`nfpatch apply {' '.join(BASIC_PATCHES)} --allow-modified --keep-going --site-packages {site}`"
        in refused.stderr
    )
    assert snapshot(site) == before

    preview = invoke(*command, "--keep-going", "--dry-run")
    assert (preview.exit_code, snapshot(site)) == (1, before)
    assert NBEATSX in preview.stdout
    assert TFT not in preview.stdout

    result = invoke(*command, "--keep-going", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["changed"] == [NBEATSX]
    assert [left_out["id"] for left_out in document["left_out"]] == ["tft-static-encoder"]
    assert "self.static_encoder = " in document["left_out"][0]["reason"]
    assert states(site, BASIC_PATCHES) == {"nbeatsx-unused-out": "applied", "tft-static-encoder": "modified"}
    again = invoke(*command, "--keep-going")
    assert again.exit_code == 1
    assert "tft-static-encoder" in again.stdout
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_keep_going_where_all_patches_fit_is_a_plain_apply(site: Path) -> None:
    result = invoke("apply", *BASIC_PATCHES, "--keep-going", "--site-packages", site)
    assert result.exit_code == 0
    assert answer("apply", *BASIC_PATCHES, "--keep-going", "--site-packages", site)["left_out"] == []
    assert states(site, BASIC_PATCHES) == dict.fromkeys(BOTH, "applied")


# --- installs from git ---


def record_git_origin(site: Path) -> str:
    """Record in the install what pip records for one from git; return the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    origin = {"url": "https://example.com/fork", "vcs_info": {"vcs": "git", "commit_id": commit}}
    (dist_info(site) / "direct_url.json").write_text(json.dumps(origin))
    return commit


def test_status_and_errors_of_an_install_from_git_name_its_commit(site: Path) -> None:
    commit = record_git_origin(site)
    edit(site / TFT, "import torch\n", "import torch\nimport math\n")
    listed = invoke("status", "--site-packages", site)
    assert commit[:10] in listed.stdout
    assert "https://example.com/fork" in listed.stdout
    assert "nfpatch apply --allow-modified --prove" in listed.stdout
    refused = invoke("apply", "tft-static-encoder", "--site-packages", site)
    assert refused.exit_code == 3
    assert commit[:10] in refused.stderr
    assert "--allow-modified --prove" in refused.stderr
    (site / TFT).unlink()
    missing = invoke("apply", "tft-static-encoder", "--site-packages", site)
    assert missing.exit_code == 3
    assert commit[:10] in missing.stderr


def test_the_advice_to_reinstall_names_the_commit_of_an_install_from_git(site: Path) -> None:
    commit = record_git_origin(site)
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    shutil.rmtree(dist_info(site) / "nfpatch" / "originals")
    refused = invoke("revert", "--site-packages", site)
    assert refused.exit_code == 3
    assert f"'neuralforecast @ git+https://example.com/fork@{commit}'" in refused.stderr


def test_status_of_a_checkout_names_its_commit(site: Path) -> None:
    shutil.rmtree(dist_info(site))
    version = (site / "neuralforecast" / "__init__.py").read_text()
    assert '__version__ = "1.7.4"' in version
    git = ("git", "-C", str(site), "-c", "user.name=x", "-c", "user.email=x@example.com")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert head[:10] in invoke("status", "--site-packages", site).stdout


@pytest.mark.parametrize("file", [NBEATSX, TFT])
def test_a_result_that_differs_from_its_fingerprint_is_not_written(site: Path, file: str) -> None:
    catalog = load_catalog()
    known = catalog.fingerprints.files
    false = {
        file: tuple(
            version._replace(
                patches={name: patch._replace(text_sha256="0" * 64) for name, patch in version.patches.items()}
            )
            for version in known[file]
        )
    }
    forged = catalog._replace(fingerprints=catalog.fingerprints._replace(files={**known, **false}))
    before = snapshot(site)
    with pytest.raises(RefusedError, match="fingerprint"):
        operations.apply(find_install(site_packages=site), forged, forged.patches)
    assert snapshot(site) == before


# --- revert ---


def test_revert_of_one_of_two_patches_restores_that_file_only(site: Path) -> None:
    released_tft, _ = (site / TFT).read_bytes(), invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    patched_nbeatsx = (site / NBEATSX).read_bytes()
    assert answer("revert", "tft-static-encoder", "--site-packages", site)["changed"] == [TFT]
    assert (site / TFT).read_bytes() == released_tft
    assert (site / NBEATSX).read_bytes() == patched_nbeatsx
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])


@pytest.mark.parametrize("first", sorted(BOTH))
@pytest.mark.parametrize("second", sorted(BOTH))
def test_any_order_of_single_steps_ends_at_the_released_tree(site: Path, first: str, second: str) -> None:
    before = snapshot(site)
    for patch in (first, *(BOTH - {first})):
        assert invoke("apply", patch, "--site-packages", site).exit_code == 0
    for patch in (second, *(BOTH - {second})):
        assert false_record_rows(site) == []
        assert invoke("revert", patch, "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


def test_revert_with_nothing_applied_changes_nothing(site: Path) -> None:
    before = snapshot(site)
    result = invoke("revert", "--site-packages", site)
    assert (result.exit_code, result.stderr) == (0, "")
    assert snapshot(site) == before


def test_revert_restores_modification_times(site: Path) -> None:
    os.utime(site / TFT, ns=(1_500_000_000_123_456_789, 1_500_000_000_123_456_789))
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert (site / TFT).stat().st_mtime_ns != 1_500_000_000_123_456_789
    invoke("revert", "--site-packages", site)
    assert (site / TFT).stat().st_mtime_ns == 1_500_000_000_123_456_789


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_edits_made_after_apply_are_not_overwritten(site: Path, command: str) -> None:
    invoke("apply", "nbeatsx-unused-out", "--site-packages", site)
    edit(site / NBEATSX, "import torch\n", "import torch\nimport math\n")
    before = snapshot(site)
    assert states(site)["nbeatsx-unused-out"] == "modified"
    result = invoke(command, "nbeatsx-unused-out", "--site-packages", site)
    assert result.exit_code == 3
    assert str(site / NBEATSX) in result.stderr
    assert "--force" in result.stderr
    assert snapshot(site) == before


def test_a_patched_file_without_its_ledger_is_applied_but_cannot_be_reverted(site: Path) -> None:
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    shutil.rmtree(dist_info(site) / "nfpatch")
    before = snapshot(site)
    assert states(site, BASIC_PATCHES) == dict.fromkeys(BOTH, "applied")
    result = invoke("revert", "--site-packages", site)
    assert result.exit_code == 3
    assert "pip install --force-reinstall" in result.stderr
    assert snapshot(site) == before


def test_revert_keeps_rows_that_another_program_added_to_record(site: Path) -> None:
    record = dist_info(site) / "RECORD"
    original = record.read_text()
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    record.write_text(record.read_text() + "neuralforecast/extra.txt,,\n")
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert record.read_text() == original + "neuralforecast/extra.txt,,\n"


# --- compiled files ---


def test_apply_removes_stale_bytecode_and_revert_restores_it(site: Path) -> None:
    cache = site / "neuralforecast" / "models" / "__pycache__"
    cache.mkdir()
    for name in (
        "tft.cpython-311.pyc",
        "tft.cpython-37.opt-1.pyc",
        "tft_helpers.cpython-311.pyc",
        "nhits.cpython-311.pyc",
    ):
        (cache / name).write_bytes(name.encode())
    before = snapshot(site)
    invoke("apply", *BASIC_PATCHES, "--site-packages", site)
    assert sorted(path.name for path in cache.iterdir()) == ["nhits.cpython-311.pyc", "tft_helpers.cpython-311.pyc"]
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])
    (cache / "tft.cpython-312.pyc").write_bytes(b"compiled from the patched source")
    invoke("revert", "--site-packages", site)
    assert snapshot(site) == before


# --- bad usage ---


def test_a_misspelt_patch_is_a_usage_error_with_a_hint(site: Path) -> None:
    result = invoke("apply", "tft-static-encoders", "--site-packages", site)
    assert result.exit_code == 2
    assert "tft-static-encoder?" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(["frobnicate"], ["apply", *BASIC_PATCHES, "--what"], ["status", "extra"], ["revert", "--skip", "search"]),
        *(["apply", "--timeout", "10"], ["verify", "--allow-modified"], ["status", "--skip", "extra"]),
        # options without effect in their combination
        *(["audit", "--patches", "."], ["migrate", "--dry-run", "--no-backup", "."]),
        *(["apply", "--dry-run", "--lock-timeout", "1"], ["revert", "--dry-run", "--lock-timeout", "1"]),
        *(["apply", "--dry-run", "--allow-editable"], ["list", "--release", "9.9"], ["--frobnicate"]),
    ],
)
def test_usage_errors_exit_with_2_as_json_as_well(arguments: list[str]) -> None:
    refused = invoke(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    document = json.loads(invoke(*arguments, "--json").stdout)
    assert (document["schema_version"], document["exit_code"]) == (1, 2)
    assert document["error"] in " ".join(refused.stderr.split())


def test_rehearse_as_is_rejects_max_steps() -> None:
    result = invoke("rehearse", "--as-is", "--max-steps", 3, "--json", "train.py")
    assert (result.exit_code, json.loads(result.stdout)["exit_code"]) == (2, 2)


def test_every_json_document_has_its_schema_version(site: Path, tmp_path: Path) -> None:
    where = ("--site-packages", site)
    for arguments in (
        *(("list",), ("which", "ValueError: nothing", *where), ("status", *where), ("apply", "--dry-run", *where)),
        *(("apply", *BASIC_PATCHES, *where), ("revert", *where), ("verify", *where), ("migrate", tmp_path, *where)),
        *(("audit", "NoModel", *where), ("status", "--site-packages", tmp_path), ("frobnicate",)),
    ):
        assert answer(*arguments)["schema_version"] == 1, arguments


def test_a_refusal_is_one_json_document(site: Path) -> None:
    (site / TFT).write_text("")
    result = invoke("apply", *BASIC_PATCHES, "--json", "--site-packages", site)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["exit_code"]) == (3, 3)
    assert document["error"] in result.stderr


def test_an_error_has_a_traceback_on_request_only(site: Path) -> None:
    (site / TFT).write_text("")
    result = run_nfpatch("apply", *BASIC_PATCHES, "--site-packages", site)
    assert result.returncode == 3
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" in run_nfpatch("apply", *BASIC_PATCHES, "--traceback", "--site-packages", site).stderr


def test_only_terminals_get_colour_unless_no_color_is_set(site: Path) -> None:
    assert "\x1b[" not in run_nfpatch("status", "--site-packages", site).stdout
    if shutil.which("script") is None:
        pytest.skip("requires the `script` command for a terminal")
    status = shlex.join([sys.executable, "-m", "nfpatch", "status", "--site-packages", str(site)])
    command = ["script", "-qec", status, "/dev/null"]
    coloured = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"\x1b\[3\dm", coloured)
    plain = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"})
    assert "\x1b[" not in plain.stdout


@pytest.mark.parametrize("command", ["list", "status", "apply", "revert"])
def test_help_names_the_options(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_commands_import_neither_neuralforecast_nor_torch_nor_unneeded_libraries(site: Path) -> None:
    script = (
        "import sys; from nfpatch.cli import main\n"
        "for arguments in (['status'], ['apply'], ['apply'], ['status'], ['revert']):\n"
        "    main([*arguments, '--site-packages', sys.argv[1]], standalone_mode=False)\n"
        "print('imported', [name for name in ('neuralforecast', 'torch', 'libcst', 'rich') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(site)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "imported ['libcst']"
    script = script.replace("['apply'], ['apply'], ", "")
    ran = subprocess.run([sys.executable, "-c", script, str(site)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "imported []"


def test_apply_and_revert_name_the_models_that_need_migrate(site: Path) -> None:
    patches = ("nbeatsx-unused-out", "tft-static-encoder")
    names_both = re.compile("NBEATSx, TFT .*nfpatch migrate")
    assert names_both.search(invoke("apply", *patches, "--site-packages", site).stdout)
    assert "migrate" not in invoke("apply", *patches, "--site-packages", site).stdout
    assert names_both.search(invoke("revert", "--site-packages", site).stdout)


def test_a_patch_that_keeps_the_parameters_does_not_mention_migrate(released: Callable[[str], Path]) -> None:
    done = invoke("apply", "softssharp-position-scale", "--site-packages", released("3.3.0"))
    assert "1 file changed" in done.stdout
    assert "migrate" not in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_standard_output_is_not_an_error(unbuffered: str) -> None:
    command = [sys.executable, "-m", "nfpatch", "list"]
    variables = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        output = process.stderr.read().decode()
    assert "Traceback" not in output
    assert "nfpatch:" not in output
