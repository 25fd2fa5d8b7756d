"""Measure the time of computing patches: one in files with 1, 10, 100 and 1,000 times the lines, then all.

In one process: the edits of `tft-static-encoder` in TFT of 1.7.4, as `apply` computes them, compared with the SHA-256
of the file, which `status` always computes. Exit code 1: the patch's time grew with the file. Then the slowest patches
of two releases.
"""

from __future__ import annotations

import gc
import sys
import time
from functools import partial
from statistics import median
from typing import Callable

from subjects import LIMIT, RELEASE, load_catalog, read_member

from nfpatch.catalog import Catalog
from nfpatch.installs.ledger import hash_of
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile

FILE, PATCH = "neuralforecast/models/tft.py", "tft-static-encoder"
TIMES = (1, 10, 100, 1000)
ROUNDS = 9
RELEASES = ("1.7.4", "3.3.0")
DEAREST = 5


def grown(source: bytes, times: int) -> bytes:
    """The file with functions added after its classes, so that it has `times` as many lines."""
    filler = b"\n\ndef filler_%d(model, x):\n    # nothing of TFT\n    model.width = x\n    return model\n"
    lines = source.count(b"\n")
    return source + b"".join(filler % number for number in range((times - 1) * lines // filler.count(b"\n")))


def seconds(action: Callable[[], object]) -> float:
    """The median of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        gc.collect()
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return median(taken)


def costs_of(catalog: Catalog, release: str) -> list[tuple[float, str]]:
    """The seconds that each patch takes in each of its files, in a process that has not seen it before."""
    costs = []
    for patch in catalog.patches:
        for file, rewrite in catalog.rewrites_for(patch, release).items():
            content = read_member(release, file)
            assert content is not None
            start = time.perf_counter()
            edits_of(rewrite, SourceFile(content), fingerprinted=True)
            costs.append((time.perf_counter() - start, f"{patch.id} in {file.rpartition('/')[2]}"))
    return costs


def main() -> int:
    """Measure and print; exit code 1 if the time grew."""
    catalog = load_catalog()
    (patch,) = catalog.select([PATCH])
    rewrite = catalog.rewrites_for(patch, RELEASE)[FILE]
    released = read_member(RELEASE, FILE)
    assert released is not None
    edits_of(rewrite, SourceFile(released), fingerprinted=True)  # imports LibCST
    print(f"{'lines':>9}{'patch ms':>10}{'ratio':>7}{'hash ms':>10}")
    first, is_kept = 0.0, True
    for times in TIMES:
        content = grown(released, times)
        patching = seconds(partial(edits_of, rewrite, SourceFile(content), fingerprinted=True))
        hashing = seconds(partial(hash_of, content))
        first = first or patching
        # in very long files the search dominates, which takes the time of two hashes at most
        ok = patching <= max(LIMIT * first, first + 2 * hashing)
        is_kept = is_kept and ok
        ratio = f"{patching * 1000:>10.2f}{patching / first:>7.2f}{hashing * 1000:>10.2f}"
        print(f"{content.count(bytes([10])):>9}{ratio}  {'ok' if ok else 'OVER'}")
    for release in RELEASES:
        costs = sorted(costs_of(catalog, release), reverse=True)
        print(f"\n{release}: {1000 * sum(cost for cost, _ in costs):.0f} ms for the edits of all; the dearest:")
        for cost, name in costs[:DEAREST]:
            print(f"{1000 * cost:>9.1f}  {name}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
