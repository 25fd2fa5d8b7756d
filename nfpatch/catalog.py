"""The catalog: what a patch is, which variant of it fits a release, and the fingerprints of the releases."""

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
from nfpatch.errors import InstallEnvironmentError, UsageError
from nfpatch.fingerprints import Fingerprints, read_fingerprints, spans_of

FINGERPRINTS_FILE_NAME = "fingerprints.json"
# The purpose of each group of patches. The first three are the default groups.
GROUPS = {
    "unused-parameters": "models that fail under DDP, because some of their parameters are unused",
    "multi-process": "training, validation, prediction and saving in several processes",
    "search": "hyperparameter search in several processes, through Optuna or ray",
    "spark": "training and prediction on Spark",
}
DEFAULT_GROUPS = ("unused-parameters", "multi-process", "search")
# On the command line: all of these groups.
ALL_GROUPS = "all"
RUNTIME_FOLDER_NAME = "runtime"
# The reason why a source needs no patch if its code has upstream's fix.
ALREADY_FIXED = "already fixed in this source"
# Imports of sibling modules in a runtime module, as ruff formats them. A regex, because every command needs them.
_IMPORT_OF_SIBLINGS = re.compile(r"from \.(\w*)[\w.]* import (\([^)]*\)|.*)")  # the literal prefix makes it fast

T = TypeVar("T")


class Case(NamedTuple):
    """A configuration of a model whose fit shows the bug on the released source, or shows that there is none.

    `options` are arguments of the model's constructor. `loss` (and a `valid_loss` in the options) names a class of
    `neuralforecast.losses.pytorch`. `exogenous` is a subset of `("static", "historic", "future")`; with "categorical",
    each of these also has an embedded column. `unused_parameters` are the parameters, as `fnmatch` patterns, that are
    unused on the released source: None means all that the patch names, and `()` means that the released source trains,
    too. A `thorough` case runs only with `verify --thorough`. `releases` (PEP 440) are the releases that can train it.
    A model named `Auto...` is searched for in two trials of different shapes. `requires` has the ids of patches without
    which the model cannot train on several ranks at all; they are applied to both sources.

    `stage` is the call after the training that is compared with a single-process reference: "validate", "predict",
    "insample" (`predict_insample`), "cross-validation", "save" (and load, on every rank), "load" (and predict), "refit"
    (`fit` again). Or it is a special kind of training: "no-batch", "strategy-object", "own-callbacks", "failing-rank",
    "trajectories", "several-threads", "one-series", "one-order", "fewer-devices" (docs/concepts/proof.md describes
    each); a "search" through Optuna or a "ray-search" through a real ray; or on Spark "predict" after a fit, on a
    "single-series", on "cut-files", each of which has a part of a series, on files "on-dbfs", or in "several-tasks". On
    the released source its result differs from the reference, or it fails with one of the patch's `symptoms`. If its
    ranks would hang (`original_hangs`), the released source is not run. `launchers` are those that show the bug; empty
    means all except Spark.
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
        """Whether the case is a hyperparameter search, which trains the model several times."""
        return self.model.startswith("Auto") and self.model != "Autoformer"

    def is_possible_in(self, version: str) -> bool:
        """Whether this release can train the case."""
        return specifier_contains(self.releases, version)


class Patch(NamedTuple):
    """One bug of neuralforecast and its fix, as a module in `patches/` defines it.

    `group` is one of GROUPS; a user's own patch may have another. `variants` maps version specifiers (PEP 440) to the
    fix for those releases: a codemod for each affected file, by its POSIX path relative to the folder that contains
    `neuralforecast/`. `unaffected` maps the other releases to the reason why they need no patch; together the two name
    every release exactly once. `unaffected_code` recognises, in a source between two releases, code without the bug: by
    reason (such as ALREADY_FIXED), a rewrite for each file that changes nothing and matches only such code.

    `unused_parameters` are the parameters, as `fnmatch` patterns, that are unused in some configuration. There the
    patch freezes them or gives them a gradient. It `removes_parameters` only if upstream removed the same ones; models
    saved before the patch then need `nfpatch migrate`. `symptoms` are parts of the error messages that the bug causes;
    those in `ambiguous` also occur in errors with other causes, in a single process, too. `requires` has the ids of
    patches without which this one cannot work; `apply` and `revert` keep them together. An `opt_in` patch changes
    single-process behaviour or is a matter of choice, so it is applied only by its own id. `why_no_cases` gives the
    reason if there are no `cases`.
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
    unaffected_code: Mapping[str, Mapping[str, Rewrite]] = MappingProxyType({})

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it rewrites in some release, sorted."""
        return tuple(sorted({file for variant in self.variants.values() for file in variant}))


class Selection(NamedTuple):
    """The patches that a command line names, without those that `--skip` leaves out.

    `patches` are in catalog order and include opt-in ones; which of them a command applies to also depends on the
    install (`nfpatch.patching.selection`). `ids` are those named by their own id. If `is_default`, nothing was named,
    and `patches` is the whole catalog. `skipped` maps the ids that are left out to the reason.
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
    """All patches, sorted by id, and the fingerprints of the releases.

    `modules` has the content of each runtime module by name, as `apply` copies it into an install.
    """

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file that some patch rewrites in some release, sorted."""
        return tuple(sorted({file for patch in self.patches for file in patch.files}))

    @property
    def default(self) -> tuple[Patch, ...]:
        """The patches that `apply` considers if none is named: the default groups without the opt-in patches."""
        return tuple(patch for patch in self.patches if patch.group in DEFAULT_GROUPS and not patch.opt_in)

    @property
    def groups(self) -> Mapping[str, tuple[Patch, ...]]:
        """The patches of each non-empty group, opt-in ones included; nfpatch's own groups first."""
        groups: dict[str, list[Patch]] = {name: [] for name in GROUPS}
        for patch in self.patches:
            groups.setdefault(patch.group, []).append(patch)
        return {name: tuple(patches) for name, patches in groups.items() if patches}

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases of neuralforecast whose fingerprints are known, oldest first."""
        return self.fingerprints.releases

    def has_fingerprints(self, patch: Patch) -> bool:
        """Whether there are fingerprints of this patch; there are none of a user's own."""
        return self.fingerprints.knows(patch.id)

    def files_of(self, patch: Patch, version: str) -> tuple[str, ...]:
        """The files that the patch rewrites in this release, sorted; none if it has no variant for it.

        The fingerprints answer this without parsing a version specifier.
        """
        if version in self.releases and self.has_fingerprints(patch):
            return self.fingerprints.files_of(version, patch.id)
        return tuple(sorted(self.rewrites_for(patch, version)))

    def is_for(self, patch: Patch, version: str) -> bool:
        """Whether this release has the bug. Raises UsageError for an unknown release."""
        if version not in self.releases:
            raise UsageError(
                f"This nfpatch does not know neuralforecast {version}: it knows the releases {self.releases[0]} to "
                f"{self.releases[-1]}. {_hint(version, self.releases)}"
            )
        return bool(self.files_of(patch, version))

    def rewrites_for(self, patch: Patch, version: str) -> Mapping[str, Rewrite]:
        """The codemods of a patch for this release by file; none if no variant names the release."""
        variant = self._first_match(patch.variants, version)
        return {} if variant is None else variant

    def releases_of(self, patch: Patch, specifier: str) -> str:
        """The releases that a variant of a patch is for, as text: `1.2.0 - 1.7.5`."""
        named = self.fingerprints.specifiers.get(specifier, ())
        spans = spans_of(named, self.releases) if self.has_fingerprints(patch) else []
        return ", ".join(first if first == last else f"{first} - {last}" for first, last in spans) or specifier

    def modules_for(self, patch: Patch, version: str) -> tuple[str, ...]:
        """The runtime modules that a patch needs in this release, sorted: what its hooks import, transitively.

        Raises UsageError if one does not exist.
        """
        rewrites = self.rewrites_for(patch, version).values()
        return tuple(sorted({name for rewrite in rewrites for name in self.modules_of(rewrite)}))

    def modules_of(self, rewrite: Rewrite) -> tuple[str, ...]:
        """The runtime modules that the hooks of one file need, sorted. Raises UsageError if one does not exist."""
        found: set[str] = set()
        waiting = ["__init__", *rewrite.imports] if rewrite.imports else []
        while waiting:
            name = waiting.pop()
            if name not in self.modules:
                raise UsageError(f"Unknown runtime module {name!r}: no folder of patches has a runtime/{name}.py.")
            if name not in found:
                found.add(name)
                waiting += self._siblings[name]
        return tuple(sorted(found))

    @cached_property
    def _siblings(self) -> Mapping[str, tuple[str, ...]]:
        """The sibling modules that each runtime module imports, by name."""
        return {name: _siblings_in(content.decode("utf-8", "replace")) for name, content in self.modules.items()}

    @cached_property
    def module_hashes(self) -> Mapping[str, str]:
        """SHA-256 (hex) of each runtime module, by name."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.modules.items()}

    def check_modules(self) -> None:
        """Raise UsageError unless every runtime module that a patch needs exists."""
        for patch in self.patches:
            rewrites = (rewrite for variant in patch.variants.values() for rewrite in variant.values())
            for rewrite in {rewrite.imports: rewrite for rewrite in rewrites}.values():
                try:
                    self.modules_of(rewrite)
                except UsageError as error:
                    raise UsageError(f"The patch {patch.id} cannot be loaded. {error}") from error

    def reason_unaffected(self, patch: Patch, version: str) -> Optional[str]:
        """The reason why this release does not need the patch; None if the patch gives none."""
        return self._first_match(patch.unaffected, version)

    def _first_match(self, by_specifier: Mapping[str, T], version: str) -> Optional[T]:
        """The value of the first specifier that names this version; parsed only if the fingerprints do not have it."""
        for specifier, value in by_specifier.items():
            is_named = self.fingerprints.is_named(specifier, version)
            if specifier_contains(specifier, version) if is_named is None else is_named:
                return value
        return None

    def select(self, names: Sequence[str]) -> tuple[Patch, ...]:
        """The patches with these ids and in these groups, in catalog order.

        Raises UsageError for a name that is neither.
        """
        ids = {patch.id for name in names for patch in self._named(name)}
        return tuple(patch for patch in self.patches if patch.id in ids)

    def selection(self, names: Sequence[str] = (), skip: Sequence[str] = ()) -> Selection:
        """The patches that these names select, without those that `skip` names and those that require them.

        Raises UsageError for a name that is neither a patch nor a group, if a patch is both named by its id and
        skipped, and if a skipped name was not selected.
        """
        selected = {patch.id for patch in self.select(names)} if names else {patch.id for patch in self.patches}
        ids = frozenset(selected.intersection(names))
        skipped: dict[str, str] = {}
        for name in skip:
            left_out = self._left_out_by(name)
            for patch_id in (patch.id for patch in self.patches if patch.id in ids and patch.id in left_out):
                raise UsageError(
                    f"{patch_id} is named, but --skip {name} leaves it out ({left_out[patch_id]}). Remove one of them."
                )
            if names and not left_out.keys() & self.with_required(selected):
                raise UsageError(f"--skip {name} has no effect: none of the named patches is in it. Remove it.")
            skipped = {**left_out, **skipped}
        patches = tuple(patch for patch in self.patches if patch.id in selected and patch.id not in skipped)
        return Selection(patches, ids, not names, {name: skipped[name] for name in self.ordered(skipped)})

    def _left_out_by(self, name: str) -> dict[str, str]:
        """The ids that `--skip NAME` leaves out, each with the reason."""
        named = {patch.id for patch in self._named(name)}
        reasons = dict.fromkeys(named, f"--skip {name}")
        for patch in self.patches:
            required = sorted(self.with_required([patch.id]) & named)
            if required and patch.id not in named:
                reasons[patch.id] = f"it requires {', '.join(required)}"
        return reasons

    def with_required(self, ids: Iterable[str]) -> frozenset[str]:
        """These ids, and the ids of all patches that they require."""
        return _closure(ids, {patch.id: patch.requires for patch in self.patches})

    def with_requiring(self, ids: Iterable[str]) -> frozenset[str]:
        """These ids, and the ids of all patches that require them."""
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
            raise UsageError(f"There is no group {name!r}. {_hint(name, (*groups, ALL_GROUPS))}")
        return groups[name]

    def _named(self, name: str) -> tuple[Patch, ...]:
        """The patch with this id, or the patches of the group with this name. Raises UsageError for any other name."""
        if name in self._by_id:
            return (self._by_id[name],)
        groups = (*self.groups, ALL_GROUPS)
        if name not in groups:
            raise UsageError(f"There is no patch or group {name!r}. {_hint(name, (*self._by_id, *groups))}")
        return self.group(name)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """These ids without duplicates, in catalog order; unknown ids come last."""
        ids = set(names)
        known = [patch.id for patch in self.patches if patch.id in ids]
        return (*known, *sorted(ids.difference(known)))

    @cached_property
    def _by_id(self) -> Mapping[str, Patch]:
        return {patch.id: patch for patch in self.patches}


def _closure(start: Iterable[str], links: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Everything that can be reached from these names, including the names themselves."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(links.get(name, ()))
    return frozenset(reached)


def _hint(name: str, known: Iterable[str]) -> str:
    """The end of the message about a name that does not exist."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else "`nfpatch list` shows the catalog."


def load_catalog(extra_folders: Sequence[Path] = ()) -> Catalog:
    """Load the shipped patches and those in `extra_folders`, with the fingerprints of the releases.

    Raises InstallEnvironmentError if the shipped folder is missing and UsageError if a user's folder does not load.
    """
    fingerprints = read_fingerprints(patches_folder() / FINGERPRINTS_FILE_NAME)
    catalog = Catalog(load_patches(extra_folders), fingerprints, load_modules(extra_folders))
    if extra_folders:
        catalog.check_modules()
    return catalog


def load_patches(extra_folders: Sequence[Path] = ()) -> tuple[Patch, ...]:
    """The patches alone, sorted by id. Raises what `load_catalog` raises."""
    modules = [path for folder in (patches_folder(), *extra_folders) for path in _patch_modules(folder)]
    patches = [_load_patch(path) for path in modules]
    names = [patch.id for patch in patches]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Two patch modules define a patch with the id {twice!r}. Give one of them another id.")
    _check_names(patches)
    return tuple(sorted(patches, key=lambda patch: patch.id))


def load_modules(extra_folders: Sequence[Path] = ()) -> Mapping[str, bytes]:
    """The content of the runtime modules in the folders of patches, by name.

    Raises UsageError if two folders have different modules with the same name.
    """
    modules: dict[str, bytes] = {}
    origin: dict[str, Path] = {}
    for folder in (patches_folder(), *extra_folders):
        for path in sorted((folder / RUNTIME_FOLDER_NAME).glob("*.py")):
            content = path.read_bytes()
            if modules.setdefault(path.stem, content) != content:
                raise UsageError(
                    f"{origin[path.stem]} and {path} are different runtime modules with the same name. Rename one."
                )
            origin.setdefault(path.stem, path)
    return modules


def _siblings_in(text: str) -> tuple[str, ...]:
    """The sibling modules that a runtime module with this text imports."""
    found: set[str] = set()
    for statement in _IMPORT_OF_SIBLINGS.finditer(text):
        if text[text.rfind("\n", 0, statement.start()) + 1 : statement.start()].strip():
            continue  # not at the start of a line
        module, imported = statement.groups()
        lines = [line.partition("#")[0] for line in imported.strip("()").splitlines()]
        found.update([module] if module else (name.split()[0] for name in ",".join(lines).split(",") if name.strip()))
    return tuple(sorted(found))


def _check_names(patches: Sequence[Patch]) -> None:
    """Raise UsageError if an id is also the name of a group, or if a patch requires one that does not exist."""
    ids = {patch.id for patch in patches}
    groups = {*GROUPS, ALL_GROUPS, *(patch.group for patch in patches)}
    for both in sorted(ids & groups):
        raise UsageError(f"{both!r} is both the id of a patch and the name of a group. Give the patch another id.")
    for patch in patches:
        for missing in sorted({*patch.requires} - ids):
            raise UsageError(f"The patch {patch.id} requires {missing!r}, which does not exist.")


def patches_folder() -> Path:
    """The folder of the shipped patches: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "patches", package.parent / "patches"):
        if (folder / FINGERPRINTS_FILE_NAME).is_file():
            return folder
    raise InstallEnvironmentError(
        f"The patches of nfpatch are missing: there is no patches/ folder in or next to {package}. Reinstall nfpatch."
    )


def _patch_modules(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. Name a folder that contains patch modules.")
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
        raise UsageError(f"The patch {patch.id} in {path} lists {words!r} as ambiguous, but not among its symptoms.")
    return patch


def specifier_contains(specifier: str, version: str) -> bool:
    """Whether the specifier (PEP 440) contains this version; the empty specifier contains all versions."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
