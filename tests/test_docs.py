"""What README and docs/ say: pages that are written by a command are as it writes them, and the others name what is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import ge
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import catalog_page
import click
import models_page
import mutants
import pytest
import releases
import versions
from packaging.version import Version
from releases import RELEASES
from support import ROOT, invoke

from nfpatch.catalog import load_catalog
from nfpatch.cli import main
from nfpatch.errors import AnswerIsNo, EnvironmentProblem, Refused, UsageError
from nfpatch.patching.survey import State

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (DOCS / "commands.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "benchmarks" / "README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose_of(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- pages that commands write


def test_the_catalog_page_is_what_make_catalog_writes() -> None:
    assert (DOCS / "catalog.md").read_text(encoding="utf-8") == catalog_page.page_of(load_catalog())


def test_the_page_and_the_picture_of_models_are_what_was_measured() -> None:
    runs, journeys = models_page.read_runs(), models_page.read_journeys()
    assert (DOCS / "models.md").read_text(encoding="utf-8") == models_page.page_of(runs, journeys)
    assert (DOCS / "matrix.svg").read_text(encoding="utf-8") == models_page.picture(runs, journeys)


def test_the_page_of_mutants_has_every_file_that_decides_and_a_reason_for_each_survivor() -> None:
    text = (DOCS / "mutants.md").read_text(encoding="utf-8")
    found = {
        file: (int(ours), int(asked)) for file, ours, asked in re.findall(r"^\| (\S+) .* (\d+) of (\d+) \|", text, re.M)
    }
    decides = re.findall(r'^    "(nfpatch/\S+\.py)",$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert len(decides) >= 10
    assert found.keys() == {*decides, "all"}
    assert all(100 * ours >= mutants.FEWEST_KILLED * asked for ours, asked in found.values())
    assert found["all"][1] - found["all"][0] >= len(mutants.SURVIVORS)
    for survivor, reason in mutants.SURVIVORS.items():
        assert f"{reason}:" in text
        assert f"- {survivor.old}" in text
    assert "no reason" not in text


def test_the_record_of_the_benchmarks_was_made_with_as_many_patches_as_there_are() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (recorded,) = re.findall(r"^(\d+) patches in the catalog$", text, re.MULTILINE)
    assert int(recorded) >= len(load_catalog().patches), "run `make bench`, and write down what it prints"


# --- README


def test_the_page_of_commands_has_every_command() -> None:
    assert set(re.findall(r"^\| `nfpatch (\w+)", COMMANDS, re.MULTILINE)) == set(main.commands)


def test_every_option_that_a_page_names_in_a_command_is_one() -> None:
    named = {
        (command, option)
        for page in PAGES
        for command, rest in re.findall(r"nfpatch (\w+)((?: [^\s`|)]+)+)", page.read_text(encoding="utf-8"))
        if command in main.commands and not main.commands[command].context_settings.get("ignore_unknown_options")
        for option in re.findall(r" (--[a-z][a-z-]*)", rest)
    }
    known = {
        (name, option)
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    assert len(named) > 15
    assert named <= known


def test_the_page_of_commands_has_the_exit_codes_and_the_states_that_there_are() -> None:
    codes = {error.exit_code for error in (AnswerIsNo, UsageError, Refused, EnvironmentProblem)}
    assert {int(code) for code in re.findall(r"^\| (\d) \|", COMMANDS, re.MULTILINE)} == codes | {0}
    (states,) = re.findall(r"^\| state \| meaning \|$(.*?)\n\n", COMMANDS, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^\| `([a-z-]+)` \|", states, re.MULTILINE)) == set(get_args(State))


def test_readme_names_the_releases_and_the_measurements_that_there_are() -> None:
    words = " ".join(README.split())
    assert f"all {len(RELEASES)} releases from {RELEASES[0]} to {RELEASES[-1]}" in words
    scripts, searches, through_ray = (
        [ends for models in part.values() for ends in models.values()]
        for part in models_page.parted(models_page.read_journeys())
    )

    def well(endings: list[dict[str, dict[str, str]]], source: str = "healed") -> int:
        return models_page.ending(endings, source, "well")

    assert well(scripts, "released") == well(searches, "released") == 0
    assert f"of {len(scripts)}, none" in words
    assert f"{well(scripts)} do on the patched one" in words
    assert f"{well(searches)} of {len(searches)} searches through Optuna" in words
    assert f"{well(through_ray)} of {len(through_ray)} through ray" in words


def test_the_patches_that_readme_counts_for_the_newest_release_are_those_that_apply_there() -> None:
    catalog = load_catalog()
    needed = [patch for patch in catalog.default if catalog.files_of(patch, RELEASES[-1])]
    assert f"{len(needed)} of the default patches still apply to {RELEASES[-1]}" in " ".join(README.split())


@pytest.mark.wheels
def test_readme_shows_the_diff_that_apply_makes(tmp_path: Path) -> None:
    releases.unpack("1.7.4", tmp_path)
    diff = invoke("apply", "tft-static-encoder", "--dry-run", "--site-packages", tmp_path).stdout
    (shown,) = re.findall(r"^```diff\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert set(shown.splitlines()) <= set(diff.splitlines())


def test_the_catalog_marks_the_words_that_errors_with_other_causes_have() -> None:
    patches = load_catalog().patches
    text = (DOCS / "catalog.md").read_text(encoding="utf-8")
    assert "only if it does not happen with one device" in " ".join(text.split())
    for words in {words for patch in patches for words in patch.symptoms}:
        is_ambiguous = any(words in patch.ambiguous for patch in patches)
        marked = re.search(rf"{re.escape(words)}[^`|]*`+ \\\*", text) is not None
        assert marked == is_ambiguous, words


def test_what_is_opt_in_is_named_in_readme() -> None:
    opt_in = {patch.id for patch in load_catalog().patches if patch.opt_in}
    assert opt_in <= set(re.findall(r"`([\w-]+)`", README))


# --- all pages


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield from ((page, link) for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)) if ":" not in link)


def test_every_link_leads_somewhere() -> None:
    for page, link in links():
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)) if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{name_of(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_file_and_make_target_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"\b(?:tests|scripts|benchmarks)/[\w/-]+\.(?:py|txt)\b", text):
        assert (ROOT / path).exists(), f"{name_of(page)} names {path}"
    for targets in re.findall(r"`make ([a-z -]+)", text):
        for target in re.findall(r"[a-z][a-z-]*", targets):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{name_of(page)} names `make {target}`"


def test_the_page_of_pages_leads_to_every_one() -> None:
    led = {link.partition("#")[0] for page, link in links() if page == DOCS / "README.md"}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= led


def test_the_changelog_names_every_patch() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    names = {patch.id for patch in load_catalog().patches}
    assert not {name for name in names if f"`{name}`" not in text}


def test_the_page_of_versions_has_every_python_and_says_of_each_what_was_run() -> None:
    text = (DOCS / "versions.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row[1:-1].split("|")] for row in re.findall(r"^\| 3\..*\|$", text, re.MULTILINE)]
    pythons = ["{}.{}".format(*version) for version in versions.SUPPORTED]
    assert [row[:2] for row in rows] == [[python, kind] for python in pythons for kind in ("newest", "lowest")]
    for python, kind, *found, outcome in [row for row in rows if row[-1] != "not run"]:
        assert re.fullmatch(r"\d+ passed(, \d+ (skipped|deselected|warnings?))*", outcome), outcome
        needed = versions.dependencies((3, int(python[2:])))
        lowest = [Version(str(each.specifier).lstrip(">=")) for each in needed]
        assert all(map(ge, map(Version, found), lowest))
        assert (kind == "newest") or [*map(Version, found)] == lowest
