"""Writes docs/results/catalog.md from the patches: the bug that each fixes, its change, and its symptoms."""

from __future__ import annotations

import ast
import re
from difflib import ndiff
from pathlib import Path
from textwrap import dedent

from nfpatch.catalog import GROUPS, Catalog, Patch, load_catalog, patches_folder
from nfpatch.codemod import Change
from nfpatch.console import releases_in_words

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "catalog.md"
HEADING = """\
# The catalog of patches

Written by `make catalog` from the modules in [`patches/`](../../patches); `nfpatch list` prints it in short. {patches}
patches for the {releases} releases from {first} to {last}. In a release that is not named for a patch, the patch is
`not-needed`, and `nfpatch status` gives the reason.

All patches keep one contract ([in full](../concepts/design.md#the-contract)): one process trains to the same bits from
the same seed as before, and N processes match one process that has the same weights. The diffs show the newest release
that needs the patch. `nfpatch apply PATCH --dry-run` prints the diff for your install.

## By the error

`nfpatch which LOG` looks these words up. Many bugs raise no error: they give wrong rows, other losses on each rank,
or hang. Words with a \\* are also those of errors with other causes: the patch helps only if the error does not
happen with one device.

| the error contains | patch |
|---|---|
| `parameters that were not used in producing the loss` | [unused-parameters](#unused-parameters) |
| `Expected to have finished reduction in the prior iteration` | the same, on older stacks |
{symptoms}
"""
RUNTIME = "../../patches/runtime"
# Marks symptoms that errors with other causes have as well.
STAR = " \\*"
# Text that is added to the purpose of a group.
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
        parts += [section_of(catalog, patch) for patch in patches]
    return "\n".join(parts)


def section_of(catalog: Catalog, patch: Patch) -> str:
    """The section of a patch: the docstring of its module, the facts, and its change."""
    module = patches_folder() / f"{patch.id.replace('-', '_')}.py"
    story = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or patch.summary
    facts = [f"- upstream: {upstream_of(patch)}", f"- files: {', '.join(map(code, patch.files))}"]
    if patch.unused_parameters:
        facts.append(f"- parameters: {', '.join(map(code, patch.unused_parameters))}")
    if patch.requires:
        facts.append(f"- requires: {', '.join(f'[`{other}`](#{other})' for other in patch.requires)}")
    if patch.opt_in:
        facts.append(f"- opt-in: `nfpatch apply {patch.id}`")
    return f"### {patch.id}\n\n{story}\n\n" + "\n".join(facts) + f"\n\n{change_of(catalog, patch)}\n"


def change_of(catalog: Catalog, patch: Patch) -> str:
    """The change in the newest release that needs the patch: a diff, and the runtime modules that it calls."""
    release = next(each for each in reversed(catalog.releases) if catalog.files_of(patch, each))
    diff, modules = list[str](), dict[str, None]()
    for file, rewrite in catalog.rewrites_for(patch, release).items():
        modules.update(dict.fromkeys(rewrite.imports))
        for change in rewrite.changes:
            if change.new is not None:
                diff += [f"# {file}: {' > '.join(filter(None, (change.where, *change.inside)))}", *diff_of(change)]
    runtime = f", calling {', '.join(f'[`{each}`]({RUNTIME}/{each}.py)' for each in modules)}" if modules else ""
    return f"In {release}{runtime}:\n\n```diff\n" + "\n".join(diff) + "\n```"


def diff_of(change: Change) -> list[str]:
    """The lines of a change, before and after, without the ellipses for unchanged code."""
    before, after = (dedent(source).splitlines() for source in (change.old, change.new or ""))
    return [line.rstrip() for line in ndiff(before, after) if line[0] in " -+" and line[2:].strip()]


def upstream_of(patch: Patch) -> str:
    """The state of the bug upstream, with links relative to this folder."""
    text = re.sub(r"docs/(upstream/\S+\.md)", r"[\1](../\1)", patch.upstream)
    return re.sub(r"^https://\S*?/(pull|issues)/(\d+)$", r"fixed there: [\1 \2](\g<0>)", text)


def linked(patch: Patch) -> str:
    """Its id, as a link to its section."""
    return f"[`{patch.id}`](#{patch.id})"


def code(words: str) -> str:
    """The text as inline code; it may contain backticks."""
    return f"`` {words} ``" if "`" in words else f"`{words}`"


if __name__ == "__main__":
    PAGE.write_text(page_of(load_catalog()), encoding="utf-8")
