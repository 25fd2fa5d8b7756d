"""Writes docs/results/catalog.md from the patches: what each fixes, how, and which errors it is found by."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from nfpatch.catalog import GROUPS, Catalog, Patch, load_catalog, patches_folder
from nfpatch.console import releases_in_words

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "catalog.md"
HEADING = """\
# What nfpatch patches

Written by `make catalog` from the modules in [`patches/`](../../patches); `nfpatch list` prints the same. {patches}
patches for the {releases} releases from {first} to {last}. In a release that is not named here a patch is `not-needed`,
and `nfpatch status` says why. The code of a patch depends on the release.

What all of them keep to: *one process: nothing changes, to the bit; several processes: what one process gives.* That
is, from the same weights: a layer that is no longer built draws no random numbers, so that at the same `random_seed` a
model like TFT of 1.7.4 starts from other weights than before.

## By the error

Where an error ends with one of these, look at these patches. Many of the others end with no error at all: wrong rows,
another loss on each device, or a hang. Words with a \\* are those of errors with other causes as well: they
tell of the bug only if it does not happen with one device. `nfpatch which LOG` looks all of them up.

| the error has the words | patch |
|---|---|
| `parameters that were not used in producing the loss` | [unused-parameters](#unused-parameters) |
| `Expected to have finished reduction in the prior iteration` | the same, on older stacks |
{symptoms}
"""
# Marks words that errors with other causes have, too.
STAR = " \\*"
# What is said of a group besides what it is for.
REMARKS = {
    "unused-parameters": "`nfpatch audit` finds no others ([audit.md](../reference/audit.md)).",
    "spark": "Applied by name: `nfpatch apply spark`.",
}


def page_of(catalog: Catalog) -> str:
    """The text of docs/results/catalog.md."""
    by_words: dict[str, list[str]] = {}
    ambiguous = {words for patch in catalog.patches for words in patch.ambiguous}
    for patch in catalog.patches:
        for words in patch.symptoms:
            by_words.setdefault(words, []).append(linked(patch))
    parts = [
        HEADING.format(
            patches=len(catalog.patches),
            releases=len(catalog.releases),
            first=catalog.releases[0],
            last=catalog.releases[-1],
            symptoms="\n".join(
                f"| {code(words)}{STAR if words in ambiguous else ''} | {', '.join(ids)} |"
                for words, ids in sorted(by_words.items())
            ),
        )
    ]
    for group, patches in catalog.groups.items():
        rows = [f"| {linked(patch)} | {patch.summary} | {releases_in_words(catalog, patch)} |" for patch in patches]
        table = ["| patch | what is wrong | releases |", "|---|---|---|", *rows]
        purpose = GROUPS[group]
        words = " ".join(filter(None, [f"{purpose[0].upper()}{purpose[1:]}.", REMARKS.get(group)]))
        parts.append("\n".join([f"## {group}", "", words, "", *table, ""]))
        parts += [section_of(patch) for patch in patches]
    return "\n".join(parts)


def section_of(patch: Patch) -> str:
    """The story of a patch, as its module tells it, and the facts."""
    module = patches_folder() / f"{patch.id.replace('-', '_')}.py"
    story = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or patch.summary
    facts = [f"- upstream: {upstream_of(patch)}", f"- files: {', '.join(map(code, patch.files))}"]
    if patch.unused_parameters:
        facts.append(f"- parameters: {', '.join(map(code, patch.unused_parameters))}")
    if patch.requires:
        facts.append(f"- requires: {', '.join(f'[`{other}`](#{other})' for other in patch.requires)}")
    if patch.opt_in:
        facts.append(f"- opt-in: `nfpatch apply {patch.id}`")
    return f"### {patch.id}\n\n{story}\n\n" + "\n".join(facts) + "\n"


def upstream_of(patch: Patch) -> str:
    """What upstream has done about it, with links that lead there from docs/."""
    text = re.sub(r"docs/(upstream/\S+\.md)", r"[\1](../\1)", patch.upstream)
    return re.sub(r"^https://\S*?/(pull|issues)/(\d+)$", r"fixed there: [\1 \2](\g<0>)", text)


def linked(patch: Patch) -> str:
    """Its id, which leads to its story."""
    return f"[`{patch.id}`](#{patch.id})"


def code(words: str) -> str:
    """These words as code, which may hold backticks themselves."""
    return f"`` {words} ``" if "`" in words else f"`{words}`"


if __name__ == "__main__":
    PAGE.write_text(page_of(load_catalog()), encoding="utf-8")
