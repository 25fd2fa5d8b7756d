"""The states of optimizers in a checkpoint, moved to the parameters that a model has now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .fitting import Built
from .refusals import Refusal


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
