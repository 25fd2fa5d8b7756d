"""The catalog: what a patch is, which variant of it fits a release, and what is on record of that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import NamedTuple, Optional, TypeVar

from nfpatch.codemod import Rewrite
from nfpatch.errors import EnvironmentProblem, UsageError
from nfpatch.fingerprints import Fingerprints, read_fingerprints, spans_of

FINGERPRINTS_FILE_NAME = "fingerprints.json"
# What each group of patches is for. The first three are applied where nothing is named.
GROUPS = {
    "unused-parameters": "models that strict DDP refuses, because some parameters get no gradient",
    "multi-process": "training, validation, prediction and saving on several processes",
    "search": "hyperparameter search on several processes, through Optuna or ray",
    "spark": "training and prediction on Spark",
}
DEFAULT_GROUPS = ("unused-parameters", "multi-process", "search")
# Stands for all of these groups on the command line.
ALL_GROUPS = "all"
RUNTIME_FOLDER_NAME = "runtime"
# Why a source does not need a patch where its code shows that upstream has fixed the bug.
ALREADY_FIXED = "already fixed in this source"
# How a runtime module imports its siblings, as ruff lays it out. Read as text, because every command does it.
_IMPORT_OF_SIBLINGS = re.compile(r"from \.(\w*)[\w.]* import (\([^)]*\)|.*)")  # found by its first letters, fast

T = TypeVar("T")


class Case(NamedTuple):
    """One configuration of a model whose fit shows the bug, or shows that there is none.

    `options` go to the model's constructor, `loss` (and a `valid_loss` among them) names a class of
    `neuralforecast.losses.pytorch`, `exogenous` is a subset of `("static", "historic", "future")`; with "categorical"
    among them, each has an embedded column as well.
    `unused_parameters` are those, as `fnmatch` patterns, that the released source leaves without a gradient here: None
    for all that the patch names, and `()` where released and patched source both train. A `thorough` case is trained by
    `verify --thorough` only. `releases` (PEP 440) are those that can train it. A model named `Auto...` is searched for
    in two trials of different shapes. `requires` are the ids of patches without which the model does not train on
    several ranks at all, so that both sources of the proof carry them.

    `stage` is what a user's script does after the training, and is compared with one process: "validate", "predict",
    "insample" (`predict_insample`), "cross-validation", "save" (and load, on every rank), "load" (and predict), "refit"
    (`fit` again); a training of another kind ("no-batch", "strategy-object", "own-callbacks", "failing-rank",
    "trajectories", "several-threads", "one-series", "one-order", "fewer-devices": docs/proof.md describes each); what
    the training was, a "search" through Optuna or a "ray-search" through a real ray; or on Spark, "predict" after a fit
    on a "single-series", on "cut-files", of which each has a part of a series, on files "on-dbfs", or in
    "several-tasks". On the released source it gives another result, or fails with one of the patch's `symptoms`; where
    its ranks would hang (`original_hangs`), the released source is not run. `launchers` are those that it shows by;
    empty for all but Spark.
    """

    model: str
    config: str
    loss: str = "MAE"
    exogenous: tuple[str, ...] = ()
    options: Mapping[str, object] = MappingProxyType({})
    unused_parameters: Optional[tuple[str, ...]] = None
    thorough: bool = False
    releases: str = ""
    stage: str = "fit"
    original_hangs: bool = False
    launchers: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()

    @property
    def is_search(self) -> bool:
        """Whether a search for hyperparameters trains the model, several times."""
        return self.model.startswith("Auto") and self.model != "Autoformer"

    def is_possible_in(self, version: str) -> bool:
        """Whether this release has what the case needs."""
        return names(self.releases, version)


class Patch(NamedTuple):
    """One bug of neuralforecast and its fix, as a module of `patches/` states it.

    `group` is one of GROUPS; a user's own patch may name another. `variants` maps version specifiers (PEP 440) to what
    fixes those releases: a codemod for each file that the bug stands in, by POSIX path below the folder that holds
    `neuralforecast/`. `unaffected` maps the other releases to the reason why they need none; the two together name
    every release exactly once. `spared` tells a source between two releases that has not got the bug by its code: by
    the reason, such as ALREADY_FIXED, a rewrite for each file that changes nothing, and finds such a source only.

    `unused_parameters` are the names, as `fnmatch` patterns, of the parameters that get no gradient in some
    configuration. The patch freezes them there, or gives them a gradient; it `removes_parameters` only where upstream
    removed the same ones, so that models which were saved before need `nfpatch migrate`. `symptoms` are words of the
    errors that the bug raises; those of them that are `ambiguous` are also words of errors with other causes, in one
    process too. `requires` are the ids of patches without which this one leaves nothing that works;
    `apply` and `revert` keep them together. A patch that is `opt_in` changes what one process does, or is a choice: it
    is applied by its own id only. `why_no_cases` says why there are no `cases`, where there are none.
    """

    id: str
    summary: str
    group: str
    model: str
    upstream: str
    variants: Mapping[str, Mapping[str, Rewrite]]
    unaffected: Mapping[str, str]
    cases: tuple[Case, ...]
    unused_parameters: tuple[str, ...] = ()
    removes_parameters: bool = False
    symptoms: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    opt_in: bool = False
    why_no_cases: str = ""
    spared: Mapping[str, Mapping[str, Rewrite]] = MappingProxyType({})

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it rewrites in some release, sorted."""
        return tuple(sorted({file for variant in self.variants.values() for file in variant}))


class Selection(NamedTuple):
    """What the names on a command line select, less what `--skip` leaves out.

    `patches` are in catalog order, opt-in ones included; which of them a command is about also depends on the install
    (`nfpatch.patching.selection`). `ids` are those that were named by their own id. `is_default` tells that nothing was
    named, so that `patches` are all of the catalog. `skipped` are the ids that are left out, with the reason.
    """

    patches: tuple[Patch, ...]
    ids: frozenset[str] = frozenset()
    is_default: bool = False
    skipped: Mapping[str, str] = MappingProxyType({})


class _Contents(NamedTuple):
    patches: tuple[Patch, ...]
    fingerprints: Fingerprints
    modules: Mapping[str, bytes] = MappingProxyType({})


class Catalog(_Contents):
    """All patches in catalog order, which is the order of their ids, and the record of the releases.

    `modules` are the runtime modules by name, as they are copied into an install.
    """

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file that some patch rewrites in some release, sorted."""
        return tuple(sorted({file for patch in self.patches for file in patch.files}))

    @property
    def default(self) -> tuple[Patch, ...]:
        """What is applied where no patch is named: the default groups without what is opt-in."""
        return tuple(patch for patch in self.patches if patch.group in DEFAULT_GROUPS and not patch.opt_in)

    @property
    def groups(self) -> Mapping[str, tuple[Patch, ...]]:
        """The patches of each group that has any, opt-in ones included: nfpatch's own groups first."""
        groups: dict[str, list[Patch]] = {name: [] for name in GROUPS}
        for patch in self.patches:
            groups.setdefault(patch.group, []).append(patch)
        return {name: tuple(patches) for name, patches in groups.items() if patches}

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

    def is_for(self, patch: Patch, version: str) -> bool:
        """Whether this release has the bug. Raises UsageError for a release that is not on record."""
        if version not in self.releases:
            raise UsageError(
                f"neuralforecast {version} is not one of the releases that this nfpatch knows, {self.releases[0]} to "
                f"{self.releases[-1]}. {_hint(version, self.releases)}"
            )
        return bool(self.files_of(patch, version))

    def rewrites_for(self, patch: Patch, version: str) -> Mapping[str, Rewrite]:
        """The codemods of a patch for this release by file; none where no variant claims it."""
        variant = self._first_match(patch.variants, version)
        return {} if variant is None else variant

    def releases_of(self, patch: Patch, specifier: str) -> str:
        """The releases that a variant of a patch is for, in words: `1.2.0 - 1.7.5`."""
        named = self.fingerprints.specifiers.get(specifier, ())
        spans = spans_of(named, self.releases) if self.is_on_record(patch) else []
        return ", ".join(first if first == last else f"{first} - {last}" for first, last in spans) or specifier

    def modules_for(self, patch: Patch, version: str) -> tuple[str, ...]:
        """The runtime modules that a patch needs in this release, sorted: what its hooks import, and what that needs.

        Raises UsageError where one does not exist.
        """
        rewrites = self.rewrites_for(patch, version).values()
        return tuple(sorted({name for rewrite in rewrites for name in self.modules_of(rewrite)}))

    def modules_of(self, rewrite: Rewrite) -> tuple[str, ...]:
        """The runtime modules that the hooks of one file need, sorted. Raises UsageError where one does not exist."""
        found: set[str] = set()
        waiting = ["__init__", *rewrite.imports] if rewrite.imports else []
        while waiting:
            name = waiting.pop()
            if name not in self.modules:
                raise UsageError(f"There is no runtime module {name!r}: no folder of patches has a runtime/{name}.py.")
            if name not in found:
                found.add(name)
                waiting += self._siblings[name]
        return tuple(sorted(found))

    @cached_property
    def _siblings(self) -> Mapping[str, tuple[str, ...]]:
        """The modules that each runtime module imports from its own package, by name."""
        return {name: _siblings_in(content.decode("utf-8", "replace")) for name, content in self.modules.items()}

    @cached_property
    def module_hashes(self) -> Mapping[str, str]:
        """SHA-256 (hex) of each runtime module, by name."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.modules.items()}

    def check_modules(self) -> None:
        """Raise UsageError unless every runtime module that some patch needs is there."""
        for patch in self.patches:
            rewrites = (rewrite for variant in patch.variants.values() for rewrite in variant.values())
            for rewrite in {rewrite.imports: rewrite for rewrite in rewrites}.values():
                try:
                    self.modules_of(rewrite)
                except UsageError as error:
                    raise UsageError(f"The patch {patch.id} cannot be loaded. {error}") from error

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
        """The patches with these ids, or in these groups, in catalog order.

        Raises UsageError for a name that is neither.
        """
        ids = {patch.id for name in names for patch in self._named(name)}
        return tuple(patch for patch in self.patches if patch.id in ids)

    def selection(self, names: Sequence[str] = (), skip: Sequence[str] = ()) -> Selection:
        """What these names select, without what `skip` names and what requires that.

        Raises UsageError for a name that is neither a patch nor a group, where a patch is both named by its id and
        skipped, and where something is skipped that was not selected.
        """
        selected = {patch.id for patch in self.select(names)} if names else {patch.id for patch in self.patches}
        ids = frozenset(selected.intersection(names))
        skipped: dict[str, str] = {}
        for name in skip:
            left_out = self._left_out_by(name)
            for patch_id in (patch.id for patch in self.patches if patch.id in ids and patch.id in left_out):
                raise UsageError(
                    f"{patch_id} was named, but --skip {name} leaves it out ({left_out[patch_id]}). Drop one of them."
                )
            if names and not left_out.keys() & self.with_required(selected):
                raise UsageError(f"--skip {name} leaves out nothing that was named. Drop it.")
            skipped = {**left_out, **skipped}
        patches = tuple(patch for patch in self.patches if patch.id in selected and patch.id not in skipped)
        return Selection(patches, ids, not names, {name: skipped[name] for name in self.ordered(skipped)})

    def _left_out_by(self, name: str) -> dict[str, str]:
        """The ids that `--skip NAME` leaves out, with the reason."""
        named = {patch.id for patch in self._named(name)}
        reasons = dict.fromkeys(named, f"--skip {name}")
        for patch in self.patches:
            required = sorted(self.with_required([patch.id]) & named)
            if required and patch.id not in named:
                reasons[patch.id] = f"it requires {', '.join(required)}"
        return reasons

    def with_required(self, ids: Iterable[str]) -> frozenset[str]:
        """These ids and those of all patches that they require."""
        return _closure(ids, {patch.id: patch.requires for patch in self.patches})

    def with_requiring(self, ids: Iterable[str]) -> frozenset[str]:
        """These ids and those of all patches that require them."""
        requiring: dict[str, list[str]] = {}
        for patch in self.patches:
            for required in patch.requires:
                requiring.setdefault(required, []).append(patch.id)
        return _closure(ids, requiring)

    def group(self, name: str) -> tuple[Patch, ...]:
        """The patches of this group, opt-in ones included, in catalog order. Raises UsageError if there is none."""
        if name == ALL_GROUPS:
            return tuple(patch for patch in self.patches if patch.group in GROUPS)
        groups = self.groups
        if name not in groups:
            raise UsageError(f"There is no group named {name!r}. {_hint(name, (*groups, ALL_GROUPS))}")
        return groups[name]

    def _named(self, name: str) -> tuple[Patch, ...]:
        """The patch with this id, or those of the group of this name. Raises UsageError for another name."""
        if name in self._by_id:
            return (self._by_id[name],)
        groups = (*self.groups, ALL_GROUPS)
        if name not in groups:
            raise UsageError(f"There is no patch or group named {name!r}. {_hint(name, (*self._by_id, *groups))}")
        return self.group(name)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """These ids, each once, in catalog order; those that the catalog does not have come last."""
        ids = set(names)
        known = [patch.id for patch in self.patches if patch.id in ids]
        return (*known, *sorted(ids.difference(known)))

    @cached_property
    def _by_id(self) -> Mapping[str, Patch]:
        return {patch.id: patch for patch in self.patches}


def _closure(start: Iterable[str], links: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """What can be reached from these names, themselves included."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(links.get(name, ()))
    return frozenset(reached)


def _hint(name: str, known: Iterable[str]) -> str:
    """What to say of a name that does not exist."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else "`nfpatch list` shows the catalog."


def load_catalog(extra_folders: Sequence[Path] = ()) -> Catalog:
    """Load the patches that nfpatch ships and those in `extra_folders`, with the record of the releases.

    Raises EnvironmentProblem when the shipped folder is missing and UsageError when a user's folder does not load.
    """
    record = read_fingerprints(patches_folder() / FINGERPRINTS_FILE_NAME)
    catalog = Catalog(load_patches(extra_folders), record, load_modules(extra_folders))
    if extra_folders:
        catalog.check_modules()
    return catalog


def load_patches(extra_folders: Sequence[Path] = ()) -> tuple[Patch, ...]:
    """The patches themselves, in the order of their ids. Raises as `load_catalog`."""
    modules = [path for folder in (patches_folder(), *extra_folders) for path in _patch_modules(folder)]
    patches = [_load_patch(path) for path in modules]
    names = [patch.id for patch in patches]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Two patch modules call themselves {twice!r}. Give one of them another id.")
    _check_names(patches)
    return tuple(sorted(patches, key=lambda patch: patch.id))


def load_modules(extra_folders: Sequence[Path] = ()) -> Mapping[str, bytes]:
    """The runtime modules that stand beside the patches, by name.

    Raises UsageError where two folders have different modules of one name.
    """
    modules: dict[str, bytes] = {}
    origin: dict[str, Path] = {}
    for folder in (patches_folder(), *extra_folders):
        for path in sorted((folder / RUNTIME_FOLDER_NAME).glob("*.py")):
            content = path.read_bytes()
            if modules.setdefault(path.stem, content) != content:
                raise UsageError(
                    f"{origin[path.stem]} and {path} are different runtime modules of one name. Rename one."
                )
            origin.setdefault(path.stem, path)
    return modules


def _siblings_in(text: str) -> tuple[str, ...]:
    """The modules that the text of a runtime module imports from its own package."""
    found: set[str] = set()
    for statement in _IMPORT_OF_SIBLINGS.finditer(text):
        if text[text.rfind("\n", 0, statement.start()) + 1 : statement.start()].strip():
            continue  # not at the start of a line
        module, imported = statement.groups()
        lines = [line.partition("#")[0] for line in imported.strip("()").splitlines()]
        found.update([module] if module else (name.split()[0] for name in ",".join(lines).split(",") if name.strip()))
    return tuple(sorted(found))


def _check_names(patches: Sequence[Patch]) -> None:
    """Raises UsageError where an id is the name of a group as well, or where a patch requires one that is not there."""
    ids = {patch.id for patch in patches}
    groups = {*GROUPS, ALL_GROUPS, *(patch.group for patch in patches)}
    for both in sorted(ids & groups):
        raise UsageError(f"{both!r} is the id of a patch and the name of a group. Give the patch another id.")
    for patch in patches:
        for missing in sorted({*patch.requires} - ids):
            raise UsageError(f"The patch {patch.id} requires {missing!r}, which does not exist.")


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
    loader = SourceFileLoader(f"nfpatch_patches.{path.stem}", str(path))
    module = ModuleType(loader.name)
    module.__file__ = str(path)
    try:
        code = loader.get_code(loader.name)
        assert code is not None, "a source file always has code"
        exec(code, vars(module))  # without a spec, which takes a third of the time
    except Exception as error:
        raise UsageError(f"The patch module {path} does not load: {type(error).__name__}: {error}") from error
    patch = getattr(module, "patch", None)
    if not isinstance(patch, Patch):
        raise UsageError(f"The patch module {path} defines no `patch = Patch(...)`.")
    if not all(
        isinstance(each, Mapping) and all(isinstance(r, Rewrite) for r in each.values())
        for each in patch.variants.values()
    ):
        raise UsageError(f"The patch {patch.id} in {path} has a variant that is not a Rewrite for each file.")
    for words in sorted({*patch.ambiguous} - {*patch.symptoms}):
        raise UsageError(f"The patch {patch.id} in {path} calls {words!r} ambiguous, which is none of its symptoms.")
    return patch


def names(specifier: str, version: str) -> bool:
    """Whether the version specifier (PEP 440) names this version; the empty one names all."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
