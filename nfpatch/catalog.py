"""The catalog: what a patch is, which variant of it fits a release, and what is on record of that."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Optional, TypeVar, Union

from nfpatch.codemod import Rewrite
from nfpatch.errors import EnvironmentProblem, UsageError
from nfpatch.fingerprints import Fingerprints, read_fingerprints

FINGERPRINTS_FILE_NAME = "fingerprints.json"

T = TypeVar("T")


class Case(NamedTuple):
    """One configuration of a model whose fit shows the bug, or shows that there is none.

    `options` go to the model's constructor, `loss` (and a `valid_loss` among them) names a class of
    `neuralforecast.losses.pytorch`, `exogenous` is a subset of `("static", "historic", "future")`; with "categorical"
    beside them, each has an embedded column as well.
    `dead_parameters` are those, as `fnmatch` patterns, that the original source leaves without a gradient here: None
    for all that the patch names, and `()` where original and patched source both train. A `thorough` case is trained by
    `verify --thorough` only. `releases` (PEP 440) are those that can train it. A model named `Auto...` is searched for
    in two trials of other shapes. `beside` are the ids of patches without which the model does not train.

    `stage` is what a user's script does after the training, and is held against one process: "validate", "predict",
    "insample" (`predict_insample`), "cross-validation", "save" (and load, on every rank), "load" (and predict), "refit"
    (`fit` again); a training of another kind ("no-batch", "strategy-object", "own-callbacks", "failing-rank",
    "trajectories", "one-series", "one-order", "fewer-devices": docs/proof.md tells of each); what the training was, a
    "search" through Optuna or a "ray-search" through a real ray; or on Spark, "predict" after a fit on a
    "single-series", on "cut-files", of which each has a part of a series, or in "several-tasks". On the original it
    ends otherwise, or with one of the patch's `symptoms`; where the ranks would wait for each other for ever (`waits`),
    the original is not run. `launchers` are those that it shows by; empty for all but Spark.
    """

    model: str
    config: str
    loss: str = "MAE"
    exogenous: tuple[str, ...] = ()
    options: Mapping[str, object] = MappingProxyType({})
    dead_parameters: Optional[tuple[str, ...]] = None
    thorough: bool = False
    releases: str = ""
    stage: str = "fit"
    waits: bool = False
    launchers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def is_search(self) -> bool:
        """Whether a search for hyperparameters trains the model, several times."""
        return self.model.startswith("Auto") and self.model != "Autoformer"

    def is_possible_in(self, version: str) -> bool:
        """Whether this release has what the case needs."""
        return names(self.releases, version)


class Patch(NamedTuple):
    """One bug of neuralforecast and its remedy, as a module of `patches/` states it.

    `variants` maps version specifiers (PEP 440) to what heals those releases: a codemod for each file that the bug
    stands in, by POSIX path below the folder that holds `neuralforecast/`. Where it stands in one `file`, the codemod
    alone. `unaffected` maps the other releases to the reason why they need none; the two together name every release
    exactly once. `dead_parameters` are the names, as `fnmatch` patterns, of the parameters that no gradient reaches in
    some configuration. They are gone there once the patch is applied, unless `keeps_parameters` says that it lets the
    gradient reach them instead. `other_names` are ids that it had, which still stand for it. `symptoms` are words of
    the errors that the bug ends with. `beside` are the ids of patches without which the models of its cases crash on
    several devices before its own bug shows. What is `by_name_only` makes one process do otherwise than as released, so
    nothing applies it that does not name it.
    """

    id: str
    summary: str
    model: str
    upstream: str
    variants: Mapping[str, Union[Rewrite, Mapping[str, Rewrite]]]
    unaffected: Mapping[str, str]
    dead_parameters: tuple[str, ...]
    cases: tuple[Case, ...]
    file: str = ""
    keeps_parameters: bool = False
    other_names: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    by_name_only: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it rewrites in some release, sorted."""
        return tuple(sorted({file for variant in self.variants.values() for file in self.by_file(variant)}))

    def by_file(self, variant: Union[Rewrite, Mapping[str, Rewrite]]) -> Mapping[str, Rewrite]:
        """The codemods of a variant by file."""
        return {self.file: variant} if isinstance(variant, Rewrite) else variant


@dataclass(frozen=True)
class Catalog:
    """All patches in catalog order, which is the order of their ids, and the record of the releases."""

    patches: tuple[Patch, ...]
    fingerprints: Fingerprints

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file that some patch rewrites in some release, sorted."""
        return tuple(sorted({file for patch in self.patches for file in patch.files}))

    @property
    def default(self) -> tuple[Patch, ...]:
        """What is applied where no patch is named."""
        return tuple(patch for patch in self.patches if not patch.by_name_only)

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases of neuralforecast whose files are known, oldest first."""
        return self.fingerprints.releases

    def is_on_record(self, patch: Patch) -> bool:
        """Whether the record speaks of this patch at all; it does not of a user's own."""
        return self.fingerprints.knows(patch.id)

    def files_of(self, patch: Patch, version: str) -> tuple[str, ...]:
        """The files that the patch rewrites in this release, sorted; none where it has no variant for it.

        The record knows without parsing a specifier.
        """
        if version in self.releases and self.is_on_record(patch):
            return self.fingerprints.files_of(version, patch.id)
        return tuple(sorted(self.rewrites_for(patch, version)))

    def rewrites_for(self, patch: Patch, version: str) -> Mapping[str, Rewrite]:
        """The codemods of a patch for this release by file; none where no variant claims it."""
        variant = self._first_match(patch.variants, version)
        return {} if variant is None else patch.by_file(variant)

    def reason_unaffected(self, patch: Patch, version: str) -> Optional[str]:
        """Why this release needs no such patch; None where the patch does not say so."""
        return self._first_match(patch.unaffected, version)

    def _first_match(self, by_specifier: Mapping[str, T], version: str) -> Optional[T]:
        """The value of the first specifier that names this version; the record is asked before it is parsed."""
        for specifier, value in by_specifier.items():
            is_named = self.fingerprints.is_named(specifier, version)
            if names(specifier, version) if is_named is None else is_named:
                return value
        return None

    def select(self, names: Sequence[str]) -> tuple[Patch, ...]:
        """The patches with these ids or other names, in catalog order.

        Raises UsageError for a name that does not exist.
        """
        for unknown in (name for name in names if name not in self._ids):
            import difflib

            near = difflib.get_close_matches(unknown, self._ids, n=1)
            hint = f"Did you mean {near[0]}?" if near else "`nfpatch list` shows the catalog."
            raise UsageError(f"There is no patch named {unknown!r}. {hint}")
        return tuple(patch for patch in self.patches if patch.id in map(self._ids.get, names))

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """These names as ids, each once, in catalog order; those that the catalog does not have come last."""
        ids = {self._ids.get(name, name) for name in names}
        known = [patch.id for patch in self.patches if patch.id in ids]
        return (*known, *sorted(ids.difference(known)))

    @cached_property
    def _ids(self) -> Mapping[str, str]:
        """The id of each patch, by every name that it goes by."""
        return {name: patch.id for patch in self.patches for name in (patch.id, *patch.other_names)}


def load_catalog(extra_folders: Sequence[Path] = ()) -> Catalog:
    """Load the patches that nfpatch ships and those in `extra_folders`.

    Raises EnvironmentProblem when the shipped folder is missing and UsageError when a user's folder does not load.
    """
    shipped = patches_folder()
    modules = [path for folder in (shipped, *extra_folders) for path in _patch_modules(folder)]
    patches = [_load_patch(path) for path in modules]
    names = [name for patch in patches for name in (patch.id, *patch.other_names)]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Two patch modules call themselves {twice!r}. Give one of them another id.")
    by_id = tuple(sorted(patches, key=lambda patch: patch.id))
    return Catalog(by_id, read_fingerprints(shipped / FINGERPRINTS_FILE_NAME))


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


def _load_patch(path: Path) -> Patch:
    """The `patch` that the module at `path` defines. Loaded by path, as Alembic loads its `versions/`."""
    spec = importlib.util.spec_from_file_location(f"nfpatch_patches.{path.stem}", path)
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"The patch module {path} does not load: {type(error).__name__}: {error}") from error
    patch = getattr(module, "patch", None)
    if not isinstance(patch, Patch):
        raise UsageError(f"The patch module {path} defines no `patch = Patch(...)`.")
    by_file = [{"": variant} if isinstance(variant, Rewrite) else variant for variant in patch.variants.values()]
    if not all(isinstance(each, Mapping) and all(isinstance(r, Rewrite) for r in each.values()) for each in by_file):
        raise UsageError(
            f"The patch {patch.id} in {path} has a variant that is no Rewrite, nor a Rewrite for each file."
        )
    if "" in patch.files:
        raise UsageError(f"The patch {patch.id} in {path} does not say in which `file` its codemods belong.")
    return patch


def names(specifier: str, version: str) -> bool:
    """Whether the version specifier (PEP 440) names this version; the empty one names all."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
