"""A file written again, for the instance that the imported source builds, and read again."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

from ..talk import SavedFile, Verdict
from .fitting import Built, built_like, model_class_named
from .formats import saved_in
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


def optimizers_for(built: Built, saved: Any, dropped: Iterable[str]) -> list[dict[str, Any]]:
    """The states of the optimizers of a file, for the parameters that the instance has."""
    # a state lists parameters in the order in which the model does, buffers in between
    own = set(built.parameters) | set(dropped)
    parameters = [key for key in saved.state if key in own]
    return [moved_optimizer(each, parameters, built.parameters, saved.state) for each in saved.optimizers]


def moved_optimizer(optimizer: dict[str, Any], saved: list[str], built: list[str], state: Any) -> dict[str, Any]:
    """The state of an optimizer for other parameters.

    Its entries go by the position of a parameter among those of the model. `saved` and `built` are the names of the
    parameters, in order; `state` are the tensors of the model by name. A parameter that is new has no entry: optimizers
    make it when the first gradient comes, which an unused parameter never sees.
    """
    groups = optimizer["param_groups"]
    positions = [position for group in groups for position in group["params"]]
    if len(groups) != 1 or len(positions) != len(saved):
        raise Refusal(
            f"holds an optimizer with {len(positions)} parameters in {len(groups)} groups, "
            f"where the model has {len(saved)} in one"
        )
    names = dict(zip(positions, saved))
    entries = {names[position]: entry for position, entry in optimizer["state"].items()}
    for name, entry in entries.items():
        for value in entry.values() if isinstance(entry, dict) else ():
            if getattr(value, "numel", lambda: 1)() not in (1, state[name].numel()):
                raise Refusal("holds an optimizer whose entries are not those of single parameters")
    group = dict(groups[0], params=list(range(len(built))))
    if "param_names" in group:
        group["param_names"] = list(built)
    moved = {number: entries[name] for number, name in enumerate(built) if name in entries}
    return dict(optimizer, state=moved, param_groups=[group])
