"""Facts in README and docs/ that can become outdated: commands, options, links, ids, releases, generated pages."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from operator import ge
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import catalog_page
import click
import matrix
import models_page
import pytest
import releases
import versions
from packaging.version import Version
from releases import RELEASES
from support import COMMANDS, ROOT, invoke

from nfpatch import __version__
from nfpatch.audit.run import AuditReport, Cell, CellOutcome
from nfpatch.catalog import load_catalog
from nfpatch.errors import InstallEnvironmentError, NfpatchError, RefusedError, UsageError
from nfpatch.patching.install_state import PatchState
from nfpatch.proof.runner import ProofReport
from nfpatch.proof.verdict import CaseResult
from nfpatch.rehearsal.run import RehearsalReport
from nfpatch.rehearsal.verdict import Stage

DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
REFERENCE = DOCS / "reference"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (REFERENCE / "commands.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "benchmarks" / "README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose_of(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield from ((page, link) for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)) if ":" not in link)


# --- generated pages


def test_the_catalog_page_is_up_to_date() -> None:
    assert (RESULTS / "catalog.md").read_text(encoding="utf-8") == catalog_page.page_of(load_catalog())


def test_the_matrix_is_up_to_date_and_has_every_release() -> None:
    proofs = matrix.read_proofs()
    assert (RESULTS / "matrix.md").read_text(encoding="utf-8") == matrix.page_of(load_catalog(), proofs)
    assert [*proofs] == [*RELEASES]
    assert all(proof["ok"] for proof in proofs.values())


def test_each_release_is_in_one_line_of_the_matrix() -> None:
    for release in RELEASES:
        assert sum(release.startswith(beginnings) for beginnings in matrix.LINES.values()) == 1, release


def test_the_page_and_picture_of_models_match_the_results() -> None:
    runs, journeys = models_page.read_runs(), models_page.read_journeys()
    assert (RESULTS / "models.md").read_text(encoding="utf-8") == models_page.page_of(runs, journeys)
    assert (RESULTS / "matrix.svg").read_text(encoding="utf-8") == models_page.picture(runs, journeys)


def test_the_page_of_versions_has_every_python_and_what_was_run() -> None:
    text = (RESULTS / "versions.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row[1:-1].split("|")] for row in re.findall(r"^\| 3\..*\|$", text, re.MULTILINE)]
    pythons = ["{}.{}".format(*version) for version in versions.SUPPORTED]
    assert [row[:2] for row in rows] == [[python, kind] for python in pythons for kind in ("newest", "lowest")]
    for python, kind, *found, outcome in [row for row in rows if row[-1] != "not run"]:
        assert re.fullmatch(r"\d+ passed(, \d+ (skipped|deselected|warnings?))*", outcome), outcome
        needed = versions.dependencies((3, int(python[2:])))
        lowest = [Version(str(each.specifier).lstrip(">=")) for each in needed]
        assert all(map(ge, map(Version, found), lowest))
        assert (kind == "newest") or [*map(Version, found)] == lowest


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=name_of)
def test_every_page_of_results_names_the_command_that_writes_it(page: Path) -> None:
    (target,) = re.findall(r"Written by `make ([a-z-]+)", page.read_text(encoding="utf-8"))
    assert re.search(rf"^{target}:.*## .*{re.escape(page.name)}", MAKEFILE, re.MULTILINE), f"make {target}"


def test_the_benchmarks_were_measured_with_all_patches() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (recorded,) = re.findall(r"^(\d+) patches in the catalog$", text, re.MULTILINE)
    assert int(recorded) >= len(load_catalog().patches), "run `make bench`, and write down what it prints"


# --- README


def test_readme_has_the_measured_releases_and_results() -> None:
    words = " ".join(README.split())
    assert f"all {len(RELEASES)} releases from {RELEASES[0]} to {RELEASES[-1]}" in words
    scripts, searches, through_ray = (
        [ends for models in part.values() for ends in models.values()]
        for part in models_page.parted(models_page.read_journeys())
    )

    def matching(endings: list[dict[str, dict[str, str]]], source: str = "patched") -> int:
        return models_page.ending(endings, source, "well")

    assert matching(scripts, "released") == matching(searches, "released") == 0
    assert f"of {len(scripts)}, none" in words
    assert f"{matching(scripts)} do on the patched one" in words
    assert f"{matching(searches)} of {len(searches)} searches through Optuna" in words
    assert f"{matching(through_ray)} of {len(through_ray)} through ray" in words


def test_readme_has_the_number_of_patches_for_the_newest_release() -> None:
    catalog = load_catalog()
    needed = [patch for patch in catalog.default if catalog.files_of(patch, RELEASES[-1])]
    assert f"{len(needed)} of the default patches still apply to {RELEASES[-1]}" in " ".join(README.split())


@pytest.mark.wheels
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "tutorial.md"], ids=name_of)
def test_the_diff_on_a_page_is_that_of_apply(page: Path, tmp_path: Path) -> None:
    releases.unpack("1.7.4", tmp_path)
    diff = invoke("apply", "tft-static-encoder", "--dry-run", "--site-packages", tmp_path).stdout
    (shown,) = re.findall(r"^```diff\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert set(shown.splitlines()) <= set(diff.splitlines())


def test_readme_names_every_group_and_every_opt_in_patch() -> None:
    catalog = load_catalog()
    names = set(re.findall(r"`([\w-]+)`", README))
    assert {patch.id for patch in catalog.patches if patch.opt_in} | set(catalog.groups) <= names


# --- reference


def test_the_page_of_commands_has_every_command() -> None:
    assert set(re.findall(r"^\| `nfpatch (\w+)", COMMANDS_PAGE, re.MULTILINE)) == set(COMMANDS)


def test_the_page_of_commands_has_all_exit_codes_and_states() -> None:
    codes = {error.exit_code for error in (NfpatchError, UsageError, RefusedError, InstallEnvironmentError)}
    assert {int(code) for code in re.findall(r"^\| (\d) \|", COMMANDS_PAGE, re.MULTILINE)} == codes | {0}
    (states,) = re.findall(r"^\| state \| meaning \|$(.*?)\n\n", COMMANDS_PAGE, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^\| `([a-z-]+)` \|", states, re.MULTILINE)) == set(get_args(PatchState))


def test_the_table_of_options_matches_the_commands() -> None:
    options = {name: {opt for each in command.params for opt in each.opts} for name, command in COMMANDS.items()}
    (table,) = re.findall(r"^\| option \| of \| meaning \|$(.*?)\n\n", COMMANDS_PAGE, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", table, re.MULTILINE)
    assert len(rows) > 10
    for names, commands in rows:
        of = [name for name in COMMANDS if re.search(rf"`{name}\b", commands)]
        for name in of:
            assert set(re.findall(r"--[a-z-]+", names)) <= options[name], f"{name} {names}"
        assert of or commands.startswith(("all", "the same")), names


@pytest.mark.wheels
def test_the_page_on_json_has_the_keys_of_the_documents(tmp_path: Path) -> None:
    text = (REFERENCE / "json.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*) \|$", text, re.MULTILINE))
    releases.unpack("1.7.4", tmp_path)
    place = ("--site-packages", str(tmp_path), "--json")

    def keys(*command: str) -> set[str]:
        return set(json.loads(invoke(*command).stdout)) - {"schema_version"}

    def named(commands: str) -> set[str]:
        return set(re.findall(r"`(\w+)`", rows[commands]))

    status = keys("status", *place)
    assert status == named("`status`")
    assert keys("apply", "--dry-run", *place) - status <= named("`apply`, `revert`")
    assert keys("which", "out.weight", *place) == named("`which`") - {"null"}
    assert keys("list", "--json") <= named("`list`")
    state = json.loads(invoke("status", *place).stdout)["patches"][0]
    assert set(state) <= keys_in_section(text, "patches")
    assert {each.name for each in fields(CaseResult)} <= keys_in_section(text, "cases")
    assert {each.name for each in fields(Stage)} | {"ok"} <= keys_in_section(text, "stages")
    assert keys_written_by(Cell) <= keys_in_section(text, "cells")
    for command, report in (("verify", ProofReport), ("rehearse", RehearsalReport), ("audit", AuditReport)):
        assert keys_written_by(report) <= named(f"`{command}`")


def keys_in_section(text: str, name: str) -> set[str]:
    """The keys of an element of this list, according to the page on JSON."""
    section = text.partition(f"## An element of `{name}`")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section))


def keys_written_by(element: type) -> set[str]:
    """The keys in the code of `to_json` of a class."""
    return set(re.findall(r'^            "(\w+)":', inspect.getsource(element.to_json), re.MULTILINE))


def test_the_page_on_the_audit_has_all_outcomes() -> None:
    text = (REFERENCE / "audit.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| outcome \| meaning \|$(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == set(get_args(CellOutcome))


def test_the_page_on_compatibility_has_every_stack_that_was_proved() -> None:
    text = (REFERENCE / "compatibility.md").read_text(encoding="utf-8")
    for release, proof in matrix.read_proofs().items():
        stack = f"{proof['python']}, {proof['torch'].partition('+')[0]}, {proof['lightning']}"
        assert stack in text, release
        assert f"{proof['measured']}, {proof['nfpatch']}" in text, release
    assert f"{RELEASES[0]} to {RELEASES[-1]}, all {len(RELEASES)} releases" in text


def test_the_catalog_page_marks_ambiguous_symptoms() -> None:
    patches = load_catalog().patches
    text = (RESULTS / "catalog.md").read_text(encoding="utf-8")
    for words in {words for patch in patches for words in patch.symptoms}:
        is_ambiguous = any(words in patch.ambiguous for patch in patches)
        marked = re.search(rf"{re.escape(words)}[^`|]*`+ \\\*", text) is not None
        assert marked == is_ambiguous, words


# --- changelog


def test_the_changelog_has_the_version_and_names_every_patch() -> None:
    assert re.findall(r"^## \[(\d.*?)\]", CHANGELOG, re.MULTILINE)[0] == __version__
    names = {patch.id for patch in load_catalog().patches}
    assert not {name for name in names if f"`{name}`" not in CHANGELOG}


# --- all pages


def test_every_option_in_a_command_on_a_page_exists() -> None:
    named = {
        (name_of(page), command, option)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for command, rest in re.findall(r"nfpatch (\w+)((?: [^\s`|)&]+)+)", page.read_text(encoding="utf-8"))
        if command in COMMANDS and not COMMANDS[command].context_settings.get("ignore_unknown_options")
        for option in re.findall(r" (--[a-z][a-z-]*)", rest)
    }
    known = {
        (name, option)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    assert len(named) > 15
    assert not {each for each in named if each[1:] not in known}


def test_every_patch_in_a_command_on_a_page_exists() -> None:
    catalog = load_catalog()
    known = {patch.id for patch in catalog.patches} | {*catalog.groups, "all"}
    named = {
        (name_of(page), word)
        for page in PAGES
        if page.name not in ("CHANGELOG.md", "writing-a-patch.md", "CONTRIBUTING.md")
        for rest in re.findall(r"nfpatch (?:apply|verify|status|revert)((?: [a-z][a-z-]+)+)(?=[ `\n])", prose_of(page))
        for word in rest.split()
    }
    words = {word for _, word in named}
    assert {"spark", "predict-on-all-devices"} <= words
    assert not {each for each in named if "-" in each[1] and each[1] not in known}


def test_every_link_has_a_target() -> None:
    for page, link in links():
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)) if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{name_of(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_file_and_make_target_on_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"\b(?:tests|scripts|benchmarks)/[\w/-]+\.(?:py|txt)\b", text):
        assert (ROOT / path).exists(), f"{name_of(page)} names {path}"
    for targets in re.findall(r"`make ([a-z -]+)", text):
        for target in re.findall(r"[a-z][a-z-]*", targets):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{name_of(page)} names `make {target}`"


def test_the_index_links_to_every_page() -> None:
    led = {(DOCS / link.partition("#")[0]).resolve() for page, link in links() if page == DOCS / "README.md"}
    pages = {page for page in DOCS.rglob("*.md") if page.parent != DOCS / "upstream"} - {DOCS / "README.md"}
    assert not {name_of(page) for page in pages if page.resolve() not in led}


def test_there_is_one_upstream_report_per_bug_of_the_newest_release() -> None:
    catalog = load_catalog()
    affected = {patch.id for patch in catalog.patches if catalog.files_of(patch, RELEASES[-1])}
    assert {page.stem for page in (DOCS / "upstream").glob("*.md")} == affected


@pytest.mark.wheels
def test_the_diffs_for_upstream_fit_the_newest_release(tmp_path: Path) -> None:
    releases.unpack(RELEASES[-1], tmp_path)
    diffs = {
        page.name: diff
        for page in (DOCS / "upstream").glob("*.md")
        for diff in re.findall(r"^```diff\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    }
    assert len(diffs) > 15
    for name, diff in diffs.items():
        command = ["git", "apply", "--check", "-"]
        done = subprocess.run(command, cwd=tmp_path, input=diff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr}"
