"""Tests nfpatch on releases that it does not know yet: docs/results/next-release.md.

Each release from 1.6.0 on is treated as the next one. It and all later ones are hidden from the catalog: fingerprints,
version ranges, and the code of later fixes. The patches that fit are compared with those of the full catalog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from releases import RELEASES, download_all, read_member

from nfpatch.catalog import Catalog, Patch, load_catalog
from nfpatch.codemod import Rewrite
from nfpatch.installs.find import Install
from nfpatch.installs.ledger import Ledger
from nfpatch.patching.edits import Edit, merge_adjacent
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile
from nfpatch.patching.variants import Variants

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "next-release.md"
FIRST = "1.6.0"
SAME, OTHER, REFUSED, NEW, WRONG = "same bytes", "other bytes", "refused", "without a predecessor", "not needed"

# Why bytes that differ from those of the full catalog are correct
_ONE_GPU = (
    "The older variant also asks for at most one GPU a trial. Upstream does so by itself from 3.2.1 on, and one stays "
    "one."
)
_SIMULATE = "`simulate` on Spark is new in 3.1.6. `predict` gets the same bytes; `simulate` stays as it is."
WHY_OTHER = {
    ("1.7.1", "validation-of-all-series"): "Upstream reduces the loss over the ranks from 1.7.1 on. The older variant "
    "lets it: all ranks have the same loss by then, and its mean is that loss.",
    ("3.1.6", "spark-predict-scalers"): _SIMULATE,
    ("3.1.6", "spark-series-of-ranks"): _SIMULATE,
    ("3.1.6", "validation-of-all-series"): "`train_loss` and `valid_loss` are logged for early stopping from 3.1.6 on. "
    "The validation loss gets the same bytes; these two stay those of a rank.",
    **{(release, "ray-trial-on-one-device"): _ONE_GPU for release in ("3.2.1", "3.2.2", "3.3.0")},
}
INTRODUCTION = """# The next release

Written by `make next-release`. A release that comes out tomorrow is not in nfpatch's catalog. `apply --allow-modified`
then goes by the code: a variant of a patch is applied if every statement that it expects is in the source exactly once.
To measure how many patches that reaches, each release from {first} on is hidden from the catalog together with
all later ones, and patched by what is known of the releases before it.

The full catalog writes {needed} patches into these {releases} releases. Of these, {same} come to the same bytes,
{other} to others, {refused} are refused, and {new} have no variant for a predecessor. {wrong} are applied where the
full catalog says `not-needed`.

| release | needed | same bytes | other bytes | refused | without a predecessor |
|---|---|---|---|---|---|
"""


class PatchOutcome(NamedTuple):
    """The outcome of a patch in a release, and for a refused one the missing code."""

    release: str
    patch: str
    outcome: str
    reason: str = ""


def outcomes_for(catalog: Catalog, release: str) -> list[PatchOutcome]:
    """The outcome of each patch in an unknown release, except those that neither catalog applies."""
    files = {
        *catalog.files,
        *(file for patch in catalog.patches for forms in patch.unaffected_code.values() for file in forms),
    }
    contents = {file: read_member(release, file) for file in files}
    nowhere = Path("nowhere")
    install = Install(release, nowhere, nowhere, None, "regular")
    hidden = hidden_from(catalog, release)
    variants = Variants(install, hidden, Ledger(release), contents)
    sources = {file: SourceFile(content) for file, content in contents.items() if content is not None}
    found = []
    for full, patch in zip(catalog.patches, hidden.patches):
        variant, expected = variants.of(patch), _edits(catalog.rewrites_for(full, release), sources)
        is_applied = variant.kind == "matched"
        if not expected:
            found += [PatchOutcome(release, patch.id, WRONG)] if is_applied else []
        elif not patch.variants:
            found.append(PatchOutcome(release, patch.id, NEW))
        elif not is_applied:
            found.append(PatchOutcome(release, patch.id, REFUSED, variant.reason))
        else:
            written = {
                file: merge_adjacent(variants.edits(file, rewrite)) for file, rewrite in variant.rewrites.items()
            }
            found.append(PatchOutcome(release, patch.id, SAME if written == expected else OTHER))
    return found


def _edits(rewrites: Mapping[str, Rewrite], sources: Mapping[str, SourceFile]) -> dict[str, tuple[Edit, ...]]:
    return {file: edits_of(rewrite, sources[file]) for file, rewrite in rewrites.items()}


def hidden_from(catalog: Catalog, release: str) -> Catalog:
    """The catalog as it would be without this release and later ones."""
    known = RELEASES[: RELEASES.index(release)]
    record = catalog.fingerprints
    files = {
        file: tuple(
            each._replace(releases=tuple(name for name in each.releases if name in known))
            for each in versions
            if not set(known).isdisjoint(each.releases)
        )
        for file, versions in record.files.items()
    }
    ended = {specifier: _ended(specifier, release) for specifier in record.specifiers}
    specifiers = {
        ended[specifier]: tuple(name for name in named if name in known)
        for specifier, named in record.specifiers.items()
    }
    fingerprints = record._replace(
        releases=known, files={file: each for file, each in files.items() if each}, specifiers=specifiers
    )
    return catalog._replace(
        fingerprints=fingerprints,
        patches=tuple(_known_of(catalog, patch, known, ended) for patch in catalog.patches),
    )


def _known_of(catalog: Catalog, patch: Patch, known: tuple[str, ...], ended: Mapping[str, str]) -> Patch:
    """A patch without the knowledge of later releases."""
    named = catalog.fingerprints.specifiers
    needing = [release for release in known if catalog.files_of(patch, release)]
    since = known[known.index(needing[0]) :] if needing else ()
    return patch._replace(
        variants={
            ended[each]: value for each, value in patch.variants.items() if not set(known).isdisjoint(named[each])
        },
        unaffected={ended[each]: why for each, why in patch.unaffected.items()},
        # a fix is known if a release has it
        unaffected_code=patch.unaffected_code if len(since) > len(needing) else {},
    )


def _ended(specifier: str, release: str) -> str:
    return f"{specifier},<{release}" if specifier else f"<{release}"


def page_of(outcomes: list[PatchOutcome]) -> str:
    """The text of the page."""
    total = Counter(outcome.outcome for outcome in outcomes)
    needed = [outcome for outcome in outcomes if outcome.outcome != WRONG]
    releases = dict.fromkeys(outcome.release for outcome in needed)
    lines = []
    for release in releases:
        own = Counter(outcome.outcome for outcome in needed if outcome.release == release)
        numbers = [own.total(), *(own[kind] for kind in (SAME, OTHER, REFUSED, NEW))]
        lines.append(f"| {' | '.join([release, *map(str, numbers)])} |\n")
    text = INTRODUCTION.format(
        first=FIRST,
        needed=len(needed),
        releases=len(releases),
        same=total[SAME],
        other=total[OTHER],
        refused=total[REFUSED],
        new=total[NEW],
        wrong=total[WRONG] or "None",
    )
    other = [
        f"- {each.patch} on {each.release}: {WHY_OTHER[each.release, each.patch]}\n"
        for each in outcomes
        if each.outcome == OTHER
    ]
    refused = [
        f"| {each.patch} | {each.release} | {' '.join(each.reason.split())} |\n"
        for each in outcomes
        if each.outcome == REFUSED
    ]
    return (
        text
        + "".join(lines)
        + "\n## Other bytes, and why they are right\n\n"
        + "".join(other)
        + "\n## Refused, and what was not found\n\n| patch | release | reason |\n|---|---|---|\n"
        + "".join(refused)
    )


def main() -> None:
    """Test all releases and write the page."""
    download_all()
    catalog = load_catalog()
    releases = RELEASES[RELEASES.index(FIRST) :]
    outcomes = [outcome for release in releases for outcome in outcomes_for(catalog, release)]
    PAGE.write_text(page_of(outcomes), encoding="utf-8")
    print(dict(Counter(outcome.outcome for outcome in outcomes)))


if __name__ == "__main__":
    main()
