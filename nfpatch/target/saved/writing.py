"""A file written again, for the instance that the imported source builds, and read again."""

from __future__ import annotations

import collections
from typing import Any

from ..talk import SavedFile, Verdict
from .classes import model_class_named
from .fitting import built_like
from .formats import saved_in
from .optimizers import optimizers_for
from .refusals import Refusal, named


def write_again(file: SavedFile, verdict: Verdict, path: str, trust: bool) -> None:
    """Writes a file that fits to a new path, reads it again and holds it against the old one.

    Raises Refusal where it cannot be made, or did not come out right.
    """
    saved = saved_in(file.path, trust)
    model_class = model_class_named(verdict.model or "")
    assert model_class is not None, "the class was found before"
    built = built_like(saved, model_class)
    saved.write(path, mended_state(saved.state, built.state), optimizers_for(built, saved, verdict.dropped))
    again = saved_in(path, trust)
    built_like(again, model_class).model.load_state_dict(again.state, strict=True)
    changed = [key for key in again.state if key in saved.state and not same_bits(again.state[key], saved.state[key])]
    if changed or len(again.optimizers) != len(saved.optimizers):
        raise Refusal("did not come out right when it was written again: " + named(changed or ["optimizer_states"]))


def mended_state(saved: Any, built: Any) -> Any:
    """The tensors of `built`, in its order; those that `saved` has, from there."""
    state: Any = type(built)() if isinstance(saved, collections.OrderedDict) else {}
    for key, tensor in built.items():
        state[key] = saved[key] if key in saved else tensor.detach().clone()
    if hasattr(saved, "_metadata"):  # torch's versions of the modules
        state._metadata = type(built._metadata)(
            (name, saved._metadata.get(name, version)) for name, version in built._metadata.items()
        )
    return state


def same_bits(one: Any, other: Any) -> bool:
    """Whether two tensors are the same, not-a-number included."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [each.detach().reshape(-1).contiguous().view(torch.uint8) for each in (one, other)]
    return bool(torch.equal(*flat))
