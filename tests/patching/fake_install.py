"""A fake neuralforecast: two files with patches, and the RECORD of an installer."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from nfpatch.catalog import Patch
from nfpatch.codemod import Change, Rewrite
from nfpatch.installs.find import Install, find_install
from nfpatch.installs.ledger import AppliedPatch, Ledger, PatchedFile, hash_of
from nfpatch.installs.transaction import FileStep, commit
from nfpatch.patching.edits import digest_edits
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.patching.plan import TreeChange, changes_to
from nfpatch.patching.rewriting import edits_of
from nfpatch.patching.source import SourceFile
from nfpatch.patching.steps import state_after, steps_for

RELEASE, UNKNOWN_RELEASE = "1.0", "2.0"
INIT, CORE, NET = (f"neuralforecast/{name}.py" for name in ("__init__", "core", "models/net"))
OPTIMIZED, COMPILED = (f"neuralforecast/models/__pycache__/net.cpython-311{end}.pyc" for end in (".opt-1", ""))
INFO = f"neuralforecast-{RELEASE}.dist-info"
METADATA, RECORD, LEDGER = (f"{INFO}/{name}" for name in ("METADATA", "RECORD", "nfpatch/ledger.json"))

RELEASED = {
    INIT: b'__version__ = "1.0"\n',
    CORE: b"""import math
class Core:
    def fit(self):
        self.gate = 1
        self.size = 2
        self.step = 1
""",
    NET: b"""import math
class Net:
    def __init__(self):
        self.bias = 1
        self.size = 2
        self.gate = 1

    def forward(self, x):
        return x
""",
    METADATA: b"Name: neuralforecast\nVersion: 1.0\n",
    OPTIMIZED: b"compiled with -O",
    COMPILED: b"compiled",
}
# Patch id -> the statement that it replaces, and the new one.
REPLACEMENTS = {
    "bias": ("self.bias = 1", "self.bias = 0"),
    "gate": ("self.gate = 1", "self.gate = 0"),
    "own": ("return x", "return x + 1"),
    "step": ("self.step = 1", "self.step = 0"),
}


def patch_of(
    patch_id: str, variants: Mapping[str, Mapping[str, Rewrite]], unaffected: str = "", opt_in: bool = False
) -> Patch:
    return Patch(
        id=patch_id,
        summary=f"the bug of {patch_id}",
        group="unused-parameters",
        model="Net",
        upstream="made up",
        variants=variants,
        unaffected={unaffected: "fixed upstream"} if unaffected else {},
        cases=(),
        opt_in=opt_in,
    )


def rewrite(patch_id: str, where: str) -> Rewrite:
    return Rewrite((Change(where, *REPLACEMENTS[patch_id]),))


BIAS = patch_of("bias", {"==1.0": {NET: rewrite("bias", "Net.__init__")}}, "!=1.0")
GATE = patch_of("gate", {">=1.0": {NET: rewrite("gate", "Net.__init__"), CORE: rewrite("gate", "Core.fit")}}, "<1.0")
OLDER = patch_of("older", {"<1.0": {NET: rewrite("bias", "Net.__init__")}}, ">=1.0")
OWN = patch_of("own", {">=1.0": {NET: rewrite("own", "Net.forward")}})
STEP = patch_of("step", {"==1.0": {CORE: rewrite("step", "Core.fit")}}, "!=1.0", opt_in=True)
# The patches that have fingerprints: all except the user's own.
FINGERPRINTED = (BIAS, GATE, OLDER, STEP)


def patched(file: str, *patches: str) -> bytes:
    """The bytes of a file with these patches."""
    content = RELEASED[file]
    for patch_id in patches:
        old, new = (words.encode() for words in REPLACEMENTS[patch_id])
        assert content.count(old) == 1
        content = content.replace(old, new)
    return content


def applied(file: str, patch_ids: Sequence[str], original: Optional[bytes] = None) -> dict[str, AppliedPatch]:
    """The ledger's records of these patches in a file, by default the released one."""
    source = SourceFile(RELEASED[file] if original is None else original)
    return {
        patch.id: AppliedPatch(digest_edits(edits_of(variant[file], source)))
        for patch in sorted((*FINGERPRINTED, OWN))
        for variant in patch.variants.values()
        if patch.id in patch_ids and file in variant and patch is not OLDER
    }


def kept(name: str) -> str:
    """The path at which the original of a file is kept."""
    return f"{INFO}/nfpatch/originals/{name}.orig"


def record_of(contents: Mapping[str, Optional[bytes]]) -> bytes:
    """A RECORD that lists these files in this order; None for a row without a hash."""
    rows = []
    for path, content in contents.items():
        if content is None:
            rows.append(f"{path},,\n")
        else:
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(content)}\n")
    return "".join(rows).encode()


# Installers list their own bytecode without a hash, and do not list later bytecode.
LISTED = {INIT: RELEASED[INIT], CORE: RELEASED[CORE], NET: RELEASED[NET], COMPILED: None}
RELEASED_ROWS = {**LISTED, METADATA: RELEASED[METADATA], RECORD: None}
RELEASED_RECORD = record_of(RELEASED_ROWS)
BYTECODE = {CORE: (), NET: (OPTIMIZED, COMPILED)}


def ledger_with(carried: Mapping[str, Sequence[str]], **rest: Any) -> bytes:
    """The ledger of an install with these patches; `rest` are further fields of each entry."""
    entries = {
        file: PatchedFile(
            original_sha256=hash_of(RELEASED[file]),
            patched_sha256=hash_of(patched(file, *patches)),
            patches=applied(file, patches),
            bytecode=BYTECODE[file],
            **rest,
        )
        for file, patches in carried.items()
    }
    return Ledger(RELEASE, entries, record_sha256=hash_of(RELEASED_RECORD)).to_bytes()


def rows_with(carried: Mapping[str, Sequence[str]], ledger: bytes) -> dict[str, Optional[bytes]]:
    """The rows of RECORD of an install with these patches and this ledger."""
    listed = {path: content for path, content in RELEASED_ROWS.items() if path != COMPILED or NET not in carried}
    now = {file: patched(file, *patches) for file, patches in carried.items()}
    own = [name for file in carried for name in (file, *BYTECODE[file])]
    return {**listed, **now, LEDGER: ledger, kept(RECORD): RELEASED_RECORD, **{kept(n): RELEASED[n] for n in own}}


def make_install(site: Path, version: str = RELEASE) -> Install:
    """Install it in this folder; other versions have the same files."""
    contents = {path: data.replace(b"Version: 1.0", b"Version: " + version.encode()) for path, data in RELEASED.items()}
    for path, content in {**contents, RECORD: RELEASED_RECORD}.items():
        target = site / path.replace(INFO, f"neuralforecast-{version}.dist-info")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return find_install(site_packages=site)


def apply_sets(found: InstallState, wanted: Mapping[str, frozenset[str]], **options: bool) -> InstallState:
    """Change the install so that these files have exactly these patches; the new state."""
    changes = changes_to(found, wanted, **options)
    if changes:
        commit(found.install, all_steps(found, changes))
    return inspect_install(found.install, found.catalog)


def describe_steps(found: InstallState, steps: Sequence[FileStep]) -> list[tuple[object, ...]]:
    """The kind and the fields of each step, paths relative to the install."""
    root = found.install.root
    return [
        (
            type(step).__name__,
            *(field.relative_to(root).as_posix() if isinstance(field, Path) else field for field in step),
        )
        for step in steps
    ]


def facts_of(state: InstallState) -> dict[str, Any]:
    """All facts of a state, including the states of the patches."""
    return {**state._asdict(), "variants": None, "statuses": state.statuses}


def all_steps(state: InstallState, changes: Sequence[TreeChange]) -> tuple[FileStep, ...]:
    """The steps with which `apply` and `revert` make these changes."""
    return steps_for(state, changes, state_after(state, changes).ledger)
