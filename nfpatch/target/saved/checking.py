"""Checks whether a saved model fits the imported source, and rewrites it so that it does."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from ..messages import FileCheck, MigrateSpec, SavedFile
from ..source import release
from . import Refusal, listed
from .fitting import (
    NOT_BUILT,
    WRAPPER,
    built_like,
    changed_keys,
    migrated_optimizers,
    migrated_state,
    model_class_named,
    model_classes,
)
from .formats import Safetensors, read_saved


def check_file(file: SavedFile, spec: MigrateSpec) -> FileCheck:
    """Whether a file fits the imported source, and if not, the keys to drop and to add."""
    try:
        saved = read_saved(file.path, spec.trust)
    except Safetensors as format_of_3_3_0:
        if find_spec("neuralforecast._serialization") is not None:
            return FileCheck("already-fits", detail="no patch changes models of its format; it was not read")
        raise Refusal(
            f"is in the format of neuralforecast 3.3.0 (safetensors), which the installed {release()} cannot read"
        ) from format_of_3_3_0
    model_class = class_of(file)
    if model_class is not None and model_class.__name__ == NOT_BUILT:
        detail = "no patch touches it; it was not built, because that would download a language model"
        return FileCheck("already-fits", NOT_BUILT, detail=detail)
    if model_class is None:
        model_class = class_that_fits(saved, spec.unused)
    if model_class is None:
        return FileCheck("already-fits", detail="several classes have exactly its keys")
    built = built_like(saved, model_class)
    dropped, added = changed_keys(model_class, saved.state, built.state_dict(), spec.unused)
    migrated_optimizers(built, saved, dropped)
    state = "misfit" if dropped or added else "already-fits"
    return FileCheck(state, model_class.__name__, tuple(dropped), tuple(added))


def class_of(file: SavedFile) -> type | None:
    """The class of a saved model according to the user, its folder or its name; None if none of them has it."""
    claimed = file.claimed
    if claimed and claimed.lower() != WRAPPER:
        return model_class_named(claimed)
    for name in file.suggested:
        if name.lower() != WRAPPER:
            with suppress(Refusal):
                return model_class_named(name)
    return None


def class_that_fits(saved: Any, unused: dict[str, tuple[str, ...]]) -> type | None:
    """The only class of this release whose instances have the keys of the file, except for unused ones.

    None if several classes have exactly these keys. Raises Refusal if no class has them, or if the changes depend on
    the class: a NBEATSx without `out` has the keys of a NBEATS.
    """
    fitting = {}
    for name, model_class in sorted(model_classes().items()):
        with suppress(Refusal):
            if name not in (NOT_BUILT.lower(), WRAPPER):
                state = built_like(saved, model_class).state_dict()
                fitting[model_class] = changed_keys(model_class, saved.state, state, unused)
    if len(fitting) == 1:
        return next(iter(fitting))
    if fitting and not any(dropped or added for dropped, added in fitting.values()):
        return None
    fits = "several: " + listed(sorted(each.__name__ for each in fitting)) if fitting else "none"
    raise Refusal(
        f"does not name the class of its model; of those in neuralforecast {release()}, it fits {fits}. "
        "Name the class with `--model CLASS`"
    )


def confirm_unused(file: SavedFile, check: FileCheck, spec: MigrateSpec) -> FileCheck:
    """The same result, if the patched source, which must be imported, has none of the keys to add."""
    used = check.added
    if spec.patched is not None:
        patched = built_like(read_saved(file.path, spec.trust), model_class_named(check.model or "")).state_dict()
        used = tuple(key for key in used if key in patched)
    if used:
        raise Refusal(
            f"lacks keys that are not known to be unused in {check.model} of neuralforecast {release()}: {listed(used)}"
        )
    return check


def rewrite(file: SavedFile, check: FileCheck, path: str, trust: bool) -> None:
    """Writes a file that fits to a new path, reads it back and compares it with the old one.

    Raises Refusal if it cannot be written, or differs in anything else than the keys to drop and add.
    """
    saved = read_saved(file.path, trust)
    model_class = model_class_named(check.model or "")
    built = built_like(saved, model_class)
    saved.write(path, migrated_state(saved.state, built.state_dict()), migrated_optimizers(built, saved, check.dropped))
    again = read_saved(path, trust)
    built_like(again, model_class).load_state_dict(again.state, strict=True)
    changed = [key for key in again.state if key in saved.state and not same_bits(again.state[key], saved.state[key])]
    if changed or len(again.optimizers) != len(saved.optimizers):
        raise Refusal("was not rewritten correctly: " + listed(changed or ["optimizer_states"]))


def same_bits(one: Any, other: Any) -> bool:
    """Whether two tensors are bit-identical, NaN included."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [each.detach().reshape(-1).contiguous().view(torch.uint8) for each in (one, other)]
    return bool(torch.equal(*flat))
