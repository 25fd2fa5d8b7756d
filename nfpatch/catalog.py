"""The catalog: what a patch is, which variant of it fits a release, and what its result must hash to."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Optional, TypeVar

from nfpatch.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from nfpatch.codemod import Codemod

FINGERPRINTS_FILE_NAME = "fingerprints.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One configuration of a model whose fit shows the bug, or shows that there is none.

    `options` go to the model's constructor, `loss` names a class of `neuralforecast.losses.pytorch`, `exogenous` is a
    subset of `("static", "historic", "future")`; with "categorical" beside them, each has an embedded column as well.
    `dead_parameters` are those, as `fnmatch` patterns, that the original source leaves without a gradient here: None
    for all that the patch names, and `()` where original and patched source both train. A `thorough` case is trained by
    `verify --thorough` only. `releases` (PEP 440) are those that can train it. A model named `Auto...` is searched for
    by Optuna.
    """

    model: str
    config: str
    loss: str = "MAE"
    exogenous: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    dead_parameters: Optional[tuple[str, ...]] = None
    thorough: bool = False
    releases: str = ""

    @property
    def is_search(self) -> bool:
        """Whether a search for hyperparameters trains the model, several times."""
        return self.model.startswith("Auto")

    def is_possible_in(self, version: str) -> bool:
        """Whether this release has what the case needs."""
        return _first_match({self.releases: True}, version) is not None


@dataclass(frozen=True)
class Patch:
    """One bug of neuralforecast and its remedy, as a module of `patches/` states it.

    `file` is the POSIX path below the folder that holds `neuralforecast/`. `variants` maps version specifiers (PEP 440)
    to the codemod that fits those releases, `unaffected` maps the other releases to the reason why they need none; the
    two together name every release exactly once. `dead_parameters` are the names, as `fnmatch` patterns, of the
    parameters that no gradient reaches in some configuration. They are gone there once the patch is applied, unless
    `keeps_parameters` says that it lets the gradient reach them instead.
    """

    id: str
    summary: str
    model: str
    file: str
    upstream: str
    variants: Mapping[str, Codemod]
    unaffected: Mapping[str, str]
    dead_parameters: tuple[str, ...]
    cases: tuple[Case, ...]
    keeps_parameters: bool = False

    def codemod_for(self, version: str) -> Optional[Codemod]:
        """The codemod for this release; None where no variant claims it."""
        return _first_match(self.variants, version)

    def reason_unaffected(self, version: str) -> Optional[str]:
        """Why this release needs no patch; None where the patch does not say so."""
        return _first_match(self.unaffected, version)


@dataclass(frozen=True)
class Catalog:
    """All patches in catalog order, which is the order of their ids, and the fingerprints.

    `fingerprints` maps release -> file -> patch set -> SHA-256 (hex). A patch set is written as `patch_set_key` does;
    the empty set stands for the file as released.
    """

    patches: tuple[Patch, ...]
    fingerprints: Mapping[str, Mapping[str, Mapping[str, str]]]

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file that some patch rewrites, sorted."""
        return tuple(sorted({patch.file for patch in self.patches}))

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases of neuralforecast whose files are known, oldest first."""
        return tuple(self.fingerprints)

    def patches_of(self, file: str) -> tuple[Patch, ...]:
        """The patches that rewrite this file, in catalog order."""
        return tuple(patch for patch in self.patches if patch.file == file)

    def select(self, ids: Sequence[str]) -> tuple[Patch, ...]:
        """The patches with these ids, in catalog order. Raises UsageError for an id that does not exist."""
        known = [patch.id for patch in self.patches]
        for unknown in (name for name in ids if name not in known):
            import difflib

            near = difflib.get_close_matches(unknown, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`nfpatch list` shows the catalog."
            raise UsageError(f"There is no patch named {unknown!r}. {hint}")
        return tuple(patch for patch in self.patches if patch.id in ids)

    def fingerprint(self, version: str, file: str, patch_ids: Iterable[str]) -> Optional[str]:
        """SHA-256 (hex) that this file of this release has with exactly these patches; None if not recorded."""
        return self.fingerprints.get(version, {}).get(file, {}).get(self.patch_set_key(patch_ids))

    def patch_set_of(self, version: str, file: str, sha256: str) -> Optional[frozenset[str]]:
        """The patches that this content carries, the empty set for a released file; None for unknown content."""
        for key, known in self.fingerprints.get(version, {}).get(file, {}).items():
            if known == sha256:
                return frozenset(key.split("+")) if key else frozenset()
        return None

    def patch_set_key(self, patch_ids: Iterable[str]) -> str:
        """How a set of patches is written in the fingerprints: ids in catalog order, joined by `+`."""
        wanted = set(patch_ids)
        return "+".join(patch.id for patch in self.patches if patch.id in wanted)


def load_catalog(extra_folders: Sequence[Path] = ()) -> Catalog:
    """Load the patches that nfpatch ships and those in `extra_folders`.

    Raises EnvironmentProblem when the shipped folder is missing and UsageError when a user's folder does not load.
    """
    shipped = patches_folder()
    fingerprints: dict[str, dict[str, dict[str, str]]] = json.loads(
        (shipped / FINGERPRINTS_FILE_NAME).read_text(encoding="utf-8")
    )
    modules = [path for folder in (shipped, *extra_folders) for path in _patch_modules(folder)]
    patches = [patch for path in modules for patch in _load_patches(path)]
    ids = [patch.id for patch in patches]
    for twice in sorted({name for name in ids if ids.count(name) > 1}):
        raise UsageError(f"Two patch modules call themselves {twice!r}. Give one of them another id.")
    return Catalog(tuple(sorted(patches, key=lambda patch: patch.id)), fingerprints)


def patches_folder() -> Path:
    """Where the shipped patches lie: inside the package in a wheel, beside it in a checkout and an editable install."""
    package = Path(__file__).resolve().parent
    for folder in (package / "patches", package.parent / "patches"):
        if (folder / FINGERPRINTS_FILE_NAME).is_file():
            return folder
    raise EnvironmentProblem(
        f"nfpatch's own patches were not found beside {package}; this copy of nfpatch is incomplete. Reinstall it."
    )


def _patch_modules(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of patch modules.")
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))


def _load_patches(path: Path) -> tuple[Patch, ...]:
    """The `patch` that the module at `path` defines, or the `patches` where a bug is in several files.

    Loaded by path, as Alembic loads its `versions/`.
    """
    spec = importlib.util.spec_from_file_location(f"nfpatch_patches.{path.stem}", path)
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"The patch module {path} does not load: {type(error).__name__}: {error}") from error
    patches = getattr(module, "patches", None) or (getattr(module, "patch", None),)
    if not isinstance(patches, tuple) or not all(isinstance(patch, Patch) for patch in patches):
        raise UsageError(f"The patch module {path} defines no `patch = Patch(...)`.")
    return patches


def _first_match(by_specifier: Mapping[str, T], version: str) -> Optional[T]:
    from packaging.specifiers import SpecifierSet

    for specifier, value in by_specifier.items():
        if SpecifierSet(specifier).contains(version, prereleases=True):
            return value
    return None
